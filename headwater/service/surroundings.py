"""What stands around a service's handlers: providers of what they need, and middlewares."""

from __future__ import annotations

from typing import TypeVar

from headwater.bus import Middleware, Provider, Surroundings

ProviderT = TypeVar("ProviderT", bound=Provider)
MiddlewareT = TypeVar("MiddlewareT", bound=Middleware)


class SurroundsHandlers:
    """The part of a service that gives its handlers more than the event."""

    def __init__(self) -> None:
        super().__init__()
        self.surroundings = Surroundings()

    def provides(self, provider: ProviderT) -> ProviderT:
        """Register a function that makes what handlers need: its return annotation names the class.

        A handler asks for it behind a star: `async def charge(event: OrderPlaced, *, payments: PaymentClient)`. It is made once, when the service
        opens, and only if a handler asks; a function that yields it is gone on with when the service closes. Tests give something else:
        `memory_service(service, provided={PaymentClient: fake})`.

        Raises:
            UsageError: at import, when it does not say what it returns, takes something, or another function returns the same.
        """
        self.surroundings.add_provider(provider)
        return provider

    def middleware(self, middleware: MiddlewareT) -> MiddlewareT:
        """Register an `async def` that runs around every call of every handler, inside its transaction: `(call: HandlerCall, call_next: CallNext)`.

        The first one registered is the outermost. What it raises fails the message as if the handler had raised it; one that does not await
        `call_next()` lets the message pass unhandled.

        Raises:
            UsageError: at import, when it does not take these two.
        """
        self.surroundings.add_middleware(middleware)
        return middleware
