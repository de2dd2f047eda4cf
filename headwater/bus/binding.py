"""What stands around a service's handlers: what they are given beside the event, and what runs before and after them.

Both are put around the functions once, when the service opens: a handler that needs neither is called as it was written.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import Any, TypeAlias, get_args, get_origin, get_type_hints

from headwater.bus.context import EffectContext
from headwater.bus.routes import Handler
from headwater.bus.subscriptions import Subscriptions
from headwater.errors import UsageError
from headwater.messages import Event, RecordedEvent

CallNext: TypeAlias = Callable[[], Awaitable[None]]
Provider: TypeAlias = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class HandlerCall:
    """One call of a handler, as a middleware sees it."""

    handler_name: str
    given: Event | RecordedEvent | list[Event] | list[RecordedEvent]
    """What the handler takes: the event, or a list of them."""
    context: EffectContext | None
    """None where the handler takes none."""


Middleware: TypeAlias = Callable[[HandlerCall, CallNext], Coroutine[Any, Any, None]]


class Surroundings:
    """The providers and middlewares of one service, filled by its decorators at import."""

    def __init__(self) -> None:
        self._providers: dict[type, Provider] = {}
        self._middlewares: list[Middleware] = []

    def add_provider(self, provider: Provider) -> None:
        """Take the provider of what its return annotation names.

        Raises:
            UsageError: it names nothing, takes something, or another provides the same.
        """
        name = getattr(provider, "__qualname__", repr(provider))
        if inspect.signature(provider).parameters:
            raise UsageError(f"the provider {name} must take nothing; what it needs comes from the module around it")
        provided = _provided(provider, name)
        if provided in self._providers:
            raise UsageError(f"two providers make a {provided.__name__}; give one of the things a class of its own")
        self._providers[provided] = provider

    def add_middleware(self, middleware: Middleware) -> None:
        """Take a middleware; the first one added is the outermost.

        Raises:
            UsageError: it is not written with `async def`, or does not take (call, call_next).
        """
        name = getattr(middleware, "__qualname__", repr(middleware))
        if not inspect.iscoroutinefunction(middleware) or len(inspect.signature(middleware).parameters) != 2:
            raise UsageError(f"the middleware {name} must be written as `async def {name}(call: HandlerCall, call_next: CallNext) -> None`")
        self._middlewares.append(middleware)

    @asynccontextmanager
    async def around(self, subscriptions: Subscriptions, provided: Mapping[type, object] | None = None) -> AsyncGenerator[Subscriptions]:
        """The handlers with everything around them, for as long as what they are given is open.

        Args:
            provided: things to give instead of what the providers make; for tests.
        Raises:
            UsageError: a handler needs what nobody provides.
        """
        given = dict(provided or {})
        needed = {need: handler for handler in subscriptions for _, need in handler.needs}
        for need, handler in needed.items():
            if need not in given and need not in self._providers:
                raise UsageError(
                    f"the handler {handler.name} needs a {need.__name__}, which nobody provides; write @service.provides before a function that "
                    f"returns one: def ...() -> {need.__name__}"
                )
        async with AsyncExitStack() as stack:
            for need in needed:
                if need not in given:
                    given[need] = await _make(self._providers[need], stack)
            yield subscriptions.with_functions(partial(self._bind, given)) if needed or self._middlewares else subscriptions

    def _bind(self, given: Mapping[type, object], handler: Handler) -> Handler:
        function = handler.function
        if handler.needs:
            function = partial(function, **{name: given[need] for name, need in handler.needs})
        return replace(handler, function=reduce(partial(_wrapped, handler.name), reversed(self._middlewares), function))


def _wrapped(
    name: str, function: Callable[..., Coroutine[Any, Any, None]], middleware: Middleware
) -> Callable[..., Coroutine[Any, Any, None]]:
    async def call(given: Event | RecordedEvent | list[Event] | list[RecordedEvent], context: EffectContext | None = None) -> None:
        arguments = (given,) if context is None else (given, context)
        await middleware(HandlerCall(name, given, context), lambda: function(*arguments))

    return call


_GENERATORS: tuple[Any, ...] = (AsyncIterator, AsyncGenerator, Iterator)


def _provided(provider: Provider, name: str) -> type:
    try:
        annotation: Any = get_type_hints(provider).get("return")
    except NameError as error:
        raise UsageError(f"the provider {name} names what cannot be found: {error}") from None
    if get_origin(annotation) in _GENERATORS:
        annotation = get_args(annotation)[0]
    if not isinstance(annotation, type) or annotation is type(None):
        raise UsageError(f"the provider {name} must say which class it returns, or yields: def {name}() -> PaymentClient")
    return annotation


async def _make(provider: Provider, stack: AsyncExitStack) -> object:
    if inspect.isasyncgenfunction(provider):
        return await stack.enter_async_context(asynccontextmanager(provider)())
    if inspect.isgeneratorfunction(provider):
        return stack.enter_context(contextmanager(provider)())
    made = provider()
    return await made if inspect.isawaitable(made) else made
