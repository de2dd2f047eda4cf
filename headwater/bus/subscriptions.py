"""Which handlers want which events; every mistake that can be seen at import is refused there."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar, Union, cast, get_args, get_origin, overload

from headwater.bus.context import Context
from headwater.bus.foreign import FindsSchemas, ForeignTopic
from headwater.errors import UsageError
from headwater.kafka import topic_of
from headwater.messages import Event

E_contra = TypeVar("E_contra", bound=Event, contravariant=True)
E1 = TypeVar("E1", bound=Event)
E2 = TypeVar("E2", bound=Event)
E3 = TypeVar("E3", bound=Event)
E4 = TypeVar("E4", bound=Event)

_EventHandler: TypeAlias = Callable[[E_contra], Coroutine[Any, Any, None]]
_ContextHandler: TypeAlias = Callable[[E_contra, Context], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Handler:
    """One registered function."""

    name: str
    """Its qualified name: what dead letters and idempotency keys call it. Renaming it makes it another handler."""
    function: Callable[..., Coroutine[Any, Any, None]]
    takes_context: bool
    event_classes: tuple[type[Event], ...]


@dataclass(frozen=True, slots=True)
class Route:
    """What to do with one type of event."""

    event_class: type[Event]
    handlers: tuple[Handler, ...]


class HandlerDecorator(Generic[E_contra]):
    """What `on(...)` returns: takes a handler of these events and gives it back unchanged."""

    __slots__ = ("_event_classes", "_register")

    def __init__(self, register: Callable[[Handler], None], event_classes: tuple[type[Event], ...]) -> None:
        self._register, self._event_classes = register, event_classes

    @overload
    def __call__(self, handler: _EventHandler[E_contra], /) -> _EventHandler[E_contra]: ...
    @overload
    def __call__(self, handler: _ContextHandler[E_contra], /) -> _ContextHandler[E_contra]: ...
    def __call__(self, handler: Callable[..., Any], /) -> Callable[..., Any]:
        self._register(_checked_handler(handler, self._event_classes))
        return handler


class Subscriptions:
    """The handlers of one service, filled by its decorators at import."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}
        self._routes: dict[str, Route] = {}
        self.foreign: dict[str, ForeignTopic] = {}
        """Topics of other producers, by name."""

    @overload
    def on(self, first: type[E1], /) -> HandlerDecorator[E1]: ...
    @overload
    def on(self, first: type[E1], second: type[E2], /) -> HandlerDecorator[E1 | E2]: ...
    @overload
    def on(self, first: type[E1], second: type[E2], third: type[E3], /) -> HandlerDecorator[E1 | E2 | E3]: ...
    @overload
    def on(self, first: type[E1], second: type[E2], third: type[E3], fourth: type[E4], /) -> HandlerDecorator[E1 | E2 | E3 | E4]: ...
    @overload
    def on(self, *event_classes: type[Event]) -> HandlerDecorator[Any]: ...
    def on(self, *event_classes: type[Event]) -> HandlerDecorator[Any]:
        """Register an `async def handler(event)` or `(event, context)` for these event classes.

        The function stays what it is, so that tests can call it. Its qualified name identifies it in dead letters and idempotency keys.

        Raises:
            UsageError: at import, when the function cannot be a handler of these events.
        """
        for event_class in event_classes:
            _check_event_class(event_class)
        if not event_classes:
            raise UsageError("on() names no event class; write @service.on(OrderPlaced)")
        if len(set(event_classes)) != len(event_classes):
            raise UsageError(f"on({', '.join(c.__name__ for c in event_classes)}) names a class twice")
        return HandlerDecorator(self._add, event_classes)

    def on_topic(
        self,
        topic: str,
        event_class: type[E1],
        *,
        format: str = "json",  # noqa: A002 - the user's word
        schemas: FindsSchemas | None = None,
    ) -> HandlerDecorator[E1]:
        """Register a handler of a foreign topic's records; see `Service.on_topic`."""
        _check_event_class(event_class)
        declared = ForeignTopic.of(topic, event_class, format, schemas)
        known = self.foreign.setdefault(topic, declared)
        if known != declared:
            raise UsageError(
                f"on_topic({topic!r}, {event_class.__name__}, format={format!r}): the topic was declared before as {known.event_class.__name__} in "
                f"{known.format}; one topic holds records of one class and format"
            )
        return HandlerDecorator(lambda handler: self._add_foreign(handler, declared), (event_class,))

    @property
    def handlers(self) -> tuple[Handler, ...]:
        """In order of registration, which is the order in which they get a message."""
        return tuple(self._handlers.values())

    @property
    def event_classes(self) -> tuple[type[Event], ...]:
        """Every class that somebody handles, but those of foreign topics."""
        return tuple(route.event_class for event_type, route in self._routes.items() if event_type == route.event_class.event_type)

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics of their categories, sorted."""
        return self.topics_with("")

    def topics_with(self, prefix: str) -> tuple[str, ...]:
        """The same, as they are named for a log outside the default schema."""
        own = {topic_of(event_class.event_category, prefix) for event_class in self.event_classes}
        if both := sorted(own & self.foreign.keys()):
            raise UsageError(
                f"the topic {both[0]!r} is one of Headwater's own, which on(...) reads; on_topic(...) is for other producers' topics"
            )
        return tuple(sorted(own | self.foreign.keys()))

    @property
    def routes(self) -> dict[str, Route]:
        """By type of event."""
        return self._routes

    def __len__(self) -> int:
        return len(self._handlers)

    def __iter__(self) -> Iterator[Handler]:
        return iter(self._handlers.values())

    def _refuse_second(self, handler: Handler) -> None:
        if handler.name in self._handlers:
            raise UsageError(
                f"two handlers are named {handler.name!r}; rename one (for several classes on one function write @service.on(A, B))"
            )

    def _add_foreign(self, handler: Handler, topic: ForeignTopic) -> None:
        self._refuse_second(handler)
        self._handlers[handler.name] = handler
        known = self._routes.get(topic.event_type)
        self._routes[topic.event_type] = Route(topic.event_class, (*(known.handlers if known else ()), handler))

    def _add(self, handler: Handler) -> None:
        self._refuse_second(handler)
        for event_class in handler.event_classes:
            known = self._routes.get(event_class.event_type)
            if known is not None and known.event_class is not event_class:
                raise UsageError(
                    f"two event classes are named {event_class.event_type}: in {known.event_class.__module__} and in {event_class.__module__}; "
                    "one service can handle only one of them: rename the other"
                )
        self._handlers[handler.name] = handler
        for event_class in handler.event_classes:
            known = self._routes.get(event_class.event_type)
            self._routes[event_class.event_type] = Route(event_class, (*(known.handlers if known else ()), handler))


# -- checks at import --------------------------------------------------------------------------------------------------


def _check_event_class(event_class: object) -> None:
    if isinstance(event_class, type) and issubclass(event_class, Event):
        if event_class is not Event:
            return
        raise UsageError("on(Event) would mean every event of every topic; name the event classes")
    if isinstance(event_class, types.FunctionType):
        raise UsageError(f"@on stands before {event_class.__qualname__} without event classes; write @service.on(OrderPlaced)")
    raise UsageError(f"on({event_class!r}): give event classes, subclasses of headwater.Event")


def _checked_handler(function: Callable[..., Any], event_classes: tuple[type[Event], ...]) -> Handler:
    name = getattr(function, "__qualname__", None)
    if not isinstance(name, str):
        raise UsageError(f"{function!r} has no name of its own to be known by; register a function written with `async def`")
    if not inspect.iscoroutinefunction(function):
        raise UsageError(f"the handler {name} must be written with `async def`")
    parameters = _parameters(function, name)
    _check_event_annotation(name, parameters[0], event_classes)
    if len(parameters) == 2:
        _check_context_annotation(name, parameters[1])
    return Handler(name=name, function=function, takes_context=len(parameters) == 2, event_classes=event_classes)


def _parameters(function: Callable[..., Any], name: str) -> Sequence[inspect.Parameter]:
    parameters = list(_signature(function).parameters.values())
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required_others = [p for p in parameters if p not in positional and p.default is p.empty and p.kind is p.KEYWORD_ONLY]
    if required_others or not 1 <= len(positional) <= 2 or any(p.kind is p.VAR_POSITIONAL for p in parameters):
        listed = ", ".join(str(p).split(":")[0] for p in parameters)
        raise UsageError(f"the handler {name}({listed}) must take (event) or (event, context)")
    return positional


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(function, eval_str=True)
    except Exception:  # noqa: BLE001 - a name that exists only for type checkers; they check it then
        return inspect.signature(function)


def _check_event_annotation(name: str, parameter: inspect.Parameter, event_classes: tuple[type[Event], ...]) -> None:
    accepted = _classes_in(parameter.annotation)
    if accepted is None:
        return
    for event_class in event_classes:
        if not issubclass(event_class, accepted):
            given = " | ".join(c.__name__ for c in accepted)
            raise UsageError(
                f"the handler {name} is registered for {event_class.__name__}, but its parameter {parameter.name!r} is annotated as {given}; "
                "make them agree"
            )


def _check_context_annotation(name: str, parameter: inspect.Parameter) -> None:
    accepted = _classes_in(parameter.annotation)
    if accepted is not None and not any(issubclass(Context, c) for c in accepted):
        raise UsageError(f"the handler {name} takes as its second parameter the context; annotate {parameter.name!r} as Context")


def _classes_in(annotation: object) -> tuple[type, ...] | None:
    """The classes that an annotation names, or None where it says nothing that could be checked here."""
    if annotation is inspect.Parameter.empty or annotation is Any:
        return None
    members = cast("tuple[object, ...]", get_args(annotation)) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    classes = tuple(member for member in members if isinstance(member, type) and get_origin(member) is None)
    return classes if len(classes) == len(members) else None
