"""Which handlers want which events; every mistake that can be seen at import is refused there."""

from __future__ import annotations

import inspect
import types
from abc import ABC
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Concatenate, Generic, ParamSpec, TypeAlias, TypedDict, TypeVar, Union, Unpack, cast, get_args, get_origin, overload

from headwater.bus.context import BatchContext, Context, EffectContext
from headwater.bus.dead_letters import MessageDeadLettered
from headwater.bus.foreign import FindsSchemas, ForeignTopic
from headwater.bus.lane_marks import LANES_MAX
from headwater.bus.log_records import LOG_TOPIC_PREFIX
from headwater.bus.retries import DEFAULT_POLICY, HandlerPolicy, OnError, RetryPolicy, checked_policy
from headwater.bus.routes import Handler, Route, Routes
from headwater.errors import UsageError
from headwater.kafka import topic_of
from headwater.messages import Event, RecordedEvent, check_category

E_contra = TypeVar("E_contra", bound=Event, contravariant=True)
E1 = TypeVar("E1", bound=Event)
E2 = TypeVar("E2", bound=Event)
E3 = TypeVar("E3", bound=Event)
E4 = TypeVar("E4", bound=Event)

_Done: TypeAlias = Coroutine[Any, Any, None]
Others = ParamSpec("Others")
"""The context, and behind a star what providers make; checked at import."""


class HandlerOptions(TypedDict, total=False):
    """What a decorator may say about a handler beside its events."""

    retry: RetryPolicy
    """How often a failing message is tried in place, and what becomes of it then; by default three quick attempts, then it is parked."""
    on_error: OnError
    """What to do at once about errors of these classes, the nearest class first: `{PaymentDown: Park(), ValueError: DeadLetterIt()}`."""
    lanes: int
    """For handlers that wait for the outside world: handle up to so many streams of a partition at once, each message in its own transaction."""
    copy_dead_letters_to: type[MessageDeadLettered]
    """Copy this handler's dead letters to the topic of this class, which is `MessageDeadLettered` or a subclass; `@service.on` of it hears of them."""


class HandlerDecorator(Generic[E_contra]):
    """What `on(...)` returns: takes a handler of these events and gives it back unchanged."""

    __slots__ = ("_event_classes", "_lanes", "_policy", "_register")

    def __init__(
        self,
        register: Callable[[Handler], None],
        event_classes: tuple[type[Event], ...],
        policy: HandlerPolicy = DEFAULT_POLICY,
        lanes: int = 0,
    ) -> None:
        self._register, self._event_classes, self._policy, self._lanes = register, event_classes, policy, lanes

    @overload
    def __call__(self, handler: Callable[Concatenate[E_contra, Others], _Done], /) -> Callable[Concatenate[E_contra, Others], _Done]: ...
    @overload
    def __call__(
        self, handler: Callable[Concatenate[list[E_contra], Others], _Done], /
    ) -> Callable[Concatenate[list[E_contra], Others], _Done]: ...
    def __call__(self, handler: Callable[..., Any], /) -> Callable[..., Any]:
        _register_checked(_checked_handler(handler, self._event_classes), self._register, self._policy, self._lanes)
        return handler


OfCategoryT = TypeVar(
    "OfCategoryT",
    bound=Callable[Concatenate[Event, ...], _Done]
    | Callable[Concatenate[RecordedEvent, ...], _Done]
    | Callable[Concatenate[list[Event], ...], _Done]
    | Callable[Concatenate[list[RecordedEvent], ...], _Done],
)


class CategoryDecorator:
    """What `on(category=...)` returns: takes a handler of `Event` or `RecordedEvent`, or of a list of either, and gives it back unchanged."""

    __slots__ = ("_category", "_lanes", "_policy", "_register")

    def __init__(self, register: Callable[[Handler], None], category: str, policy: HandlerPolicy, lanes: int) -> None:
        self._register, self._category, self._policy, self._lanes = register, category, policy, lanes

    def __call__(self, handler: OfCategoryT, /) -> OfCategoryT:
        _register_checked(_checked_category_handler(handler, self._category), self._register, self._policy, self._lanes)
        return handler


class Subscriptions:
    """The handlers of one service, filled by its decorators at import."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}
        self._routes: dict[str, Route] = {}
        self._of_category: dict[str, tuple[Handler, ...]] = {}
        """Handlers of everything that is in a category."""
        self.foreign: dict[str, ForeignTopic] = {}
        """Topics of other producers, by name."""

    @overload
    def on(self, first: type[E1], /, **options: Unpack[HandlerOptions]) -> HandlerDecorator[E1]: ...
    @overload
    def on(self, first: type[E1], second: type[E2], /, **options: Unpack[HandlerOptions]) -> HandlerDecorator[E1 | E2]: ...
    @overload
    def on(
        self, first: type[E1], second: type[E2], third: type[E3], /, **options: Unpack[HandlerOptions]
    ) -> HandlerDecorator[E1 | E2 | E3]: ...
    @overload
    def on(
        self, first: type[E1], second: type[E2], third: type[E3], fourth: type[E4], /, **options: Unpack[HandlerOptions]
    ) -> HandlerDecorator[E1 | E2 | E3 | E4]: ...
    @overload
    def on(self, *, category: str, **options: Unpack[HandlerOptions]) -> CategoryDecorator: ...
    @overload
    def on(self, *event_classes: type[Event] | types.UnionType, **options: Unpack[HandlerOptions]) -> HandlerDecorator[Any]: ...
    def on(
        self, *event_classes: type[Event] | types.UnionType, category: str | None = None, **options: Unpack[HandlerOptions]
    ) -> HandlerDecorator[Any] | CategoryDecorator:
        """Register an `async def handler(event)` or `(event, context)` for these event classes, or one that takes a `list` of them.

        A union `OrderPlaced | OrderCancelled` stands for its classes, and a base class without events of its own, `class OrderEvent(Event, ABC)`, for
        everything derived from it so far.

        A handler of lists, `(events: list[OrderPlaced])` or `(events: list[OrderPlaced], context: BatchContext)`, gets everything that shares a
        transaction at once, in order per stream, which suits one statement for many rows. When it fails, the list is halved until the event at
        fault stands alone.

        With `category="order"` instead of classes it gets everything of the category: `(event: RecordedEvent)` as it is in the log, whatever its
        type; `(event: Event)` as the class of its type, and what has no class here is a dead letter.

        The function stays what it is, so that tests can call it. Its qualified name identifies it in dead letters and idempotency keys.

        Args:
            category: all streams of this category, in place of event classes.
            options: `retry` and `on_error` say what becomes of messages that fail, `copy_dead_letters_to` who hears of it; see `HandlerOptions`.
        Raises:
            UsageError: at import, when the function cannot be a handler of these events.
        """
        if category is not None:
            return self.on_category(category, event_classes, **options)
        named = named_classes(event_classes)
        if not named:
            raise UsageError("on() names no event class; write @service.on(OrderPlaced)")
        if len(set(named)) != len(named):
            raise UsageError(f"on({', '.join(c.__name__ for c in named)}) names a class twice")
        return HandlerDecorator(self._add, named, _policy(**options), options.get("lanes", 0))

    def on_category(self, category: str, event_classes: Sequence[object] = (), **options: Unpack[HandlerOptions]) -> CategoryDecorator:
        """What `on(category=...)` does.

        Raises:
            UsageError: at import, when there are event classes, too, or no topic can have this name.
        """
        if event_classes:
            raise UsageError(
                f"on(..., category={category!r}) names event classes, too; everything of a category, or some classes: leave out one"
            )
        check_category(category, owner=f"on(category={category!r})")
        return CategoryDecorator(self._add_to_category, category, _policy(**options), options.get("lanes", 0))

    def on_topic(
        self,
        topic: str,
        event_class: type[E1],
        *,
        format: str = "json",  # noqa: A002 - the user's word
        schemas: FindsSchemas | None = None,
        **options: Unpack[HandlerOptions],
    ) -> HandlerDecorator[E1]:
        """Register a handler of a foreign topic's records; see `Service.on_topic`."""
        policy = _policy("on_topic", **options)
        _check_event_class(event_class)
        declared = ForeignTopic.of(topic, event_class, format, schemas)
        known = self.foreign.setdefault(topic, declared)
        if known != declared:
            raise UsageError(
                f"on_topic({topic!r}, {event_class.__name__}, format={format!r}): the topic was declared before as {known.event_class.__name__} in "
                f"{known.format}; one topic holds records of one class and format"
            )
        return HandlerDecorator(lambda handler: self._add_foreign(handler, declared), (event_class,), policy, options.get("lanes", 0))

    @property
    def handlers(self) -> tuple[Handler, ...]:
        """In order of registration, which is the order in which they get a message."""
        return tuple(self._handlers.values())

    @property
    def event_classes(self) -> tuple[type[Event], ...]:
        """Every class that somebody handles, but those of foreign topics."""
        named = [(event_type, route.event_class) for event_type, route in self._routes.items()]
        return tuple(found for event_type, found in named if found is not None and event_type == found.event_type)

    @property
    def lane_counts(self) -> dict[str, int]:
        """Of those handlers that run in lanes, by name."""
        return {handler.name: handler.lanes for handler in self._handlers.values() if handler.lanes}

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics of their categories, sorted."""
        return self.topics_with("")

    def topics_with(self, prefix: str) -> tuple[str, ...]:
        """The same, as they are named for a log outside the default schema."""
        categories = {event_class.event_category for event_class in self.event_classes} | self._of_category.keys()
        own = {topic_of(category, prefix) for category in categories}
        if both := sorted(own & self.foreign.keys()):
            raise UsageError(
                f"the topic {both[0]!r} is one of Headwater's own, which on(...) reads; on_topic(...) is for other producers' topics"
            )
        return tuple(sorted(own | self.foreign.keys()))

    @property
    def routes(self) -> dict[str, Route]:
        """By type of event; without the handlers of whole categories."""
        return self._routes

    def routes_of(self, category: str) -> Routes:
        """What to do with the events of a category."""
        handlers = self._of_category.get(category)
        if handlers is None:
            return Routes(self._routes)
        merged = {
            event_type: Route(route.event_class, self._in_order((*route.handlers, *handlers))) for event_type, route in self._routes.items()
        }
        return Routes(merged, Route(None, handlers))

    def routes_in(self, topic: str, prefix: str = "") -> Routes:
        """The same for a topic, or what the log's events of one category are called in its place."""
        return self.routes_of(topic.removeprefix(LOG_TOPIC_PREFIX) if topic.startswith(LOG_TOPIC_PREFIX) else topic.removeprefix(prefix))

    def _in_order(self, handlers: Iterable[Handler]) -> tuple[Handler, ...]:
        chosen = {handler.name: handler for handler in handlers}
        return tuple(chosen[name] for name in self._handlers if name in chosen)

    def __len__(self) -> int:
        return len(self._handlers)

    def __iter__(self) -> Iterator[Handler]:
        return iter(self._handlers.values())

    def with_functions(self, bind: Callable[[Handler], Handler]) -> Subscriptions:
        """The same with other functions in place of the handlers' own."""
        bound = Subscriptions()
        bound.foreign, bound._handlers = self.foreign, {name: bind(handler) for name, handler in self._handlers.items()}
        bound._routes = {
            event_type: Route(route.event_class, tuple(bound._handlers[handler.name] for handler in route.handlers))
            for event_type, route in self._routes.items()
        }
        bound._of_category = {
            category: tuple(bound._handlers[handler.name] for handler in handlers) for category, handlers in self._of_category.items()
        }
        return bound

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

    def _add_to_category(self, handler: Handler) -> None:
        self._refuse_second(handler)
        assert handler.category is not None, "it was checked as a handler of one"
        self._handlers[handler.name] = handler
        self._of_category[handler.category] = (*self._of_category.get(handler.category, ()), handler)

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


def _register_checked(handler: Handler, register: Callable[[Handler], None], policy: HandlerPolicy, lanes: int) -> None:
    if handler.takes_batch and lanes:
        raise UsageError(f"the handler {handler.name} takes a list, and lanes give it one event at a time; leave out one of them")
    register(replace(handler, policy=policy, lanes=lanes))


def _policy(decorator: str = "on", /, **options: Unpack[HandlerOptions]) -> HandlerPolicy:
    if unknown := options.keys() - HandlerOptions.__annotations__.keys():
        known = ", ".join(HandlerOptions.__annotations__)
        raise UsageError(f"{decorator}() knows no option {', '.join(sorted(unknown))}; there are: {known}")
    lanes: Any = options.get("lanes", 0)
    if lanes is True or not isinstance(lanes, int) or not 0 <= lanes <= LANES_MAX:
        raise UsageError(
            f"{decorator}(..., lanes={lanes!r}) must be a number from 1 to {LANES_MAX}: so many streams of a partition at once"
        )
    copy_to: Any = options.get("copy_dead_letters_to")
    if copy_to is not None and not (isinstance(copy_to, type) and issubclass(copy_to, MessageDeadLettered)):
        raise UsageError(
            f"{decorator}(..., copy_dead_letters_to={copy_to!r}) must be MessageDeadLettered, or a subclass of it with a category of its own"
        )
    return checked_policy(options.get("retry"), options.get("on_error"), copy_to)


def named_classes(event_classes: Iterable[object]) -> tuple[type[Event], ...]:
    """The classes that `on(...)` means: those of a union `A | B` one by one, and for a base class without events of its own its subclasses.

    Raises:
        UsageError: one is no event class, or a base class that nothing was derived from yet.
    """
    named: list[type[Event]] = []
    for event_class in event_classes:
        members: tuple[Any, ...] = get_args(event_class) if get_origin(event_class) in (Union, types.UnionType) else (event_class,)
        for member in members:
            _check_event_class(member)
            named += _concrete(member)
    return tuple(named)


def _concrete(event_class: type[Event]) -> list[type[Event]]:
    if ABC not in event_class.__bases__:
        return [event_class]
    found = [concrete for subclass in event_class.__subclasses__() for concrete in _concrete(subclass)]
    if not found:
        raise UsageError(
            f"on({event_class.__name__}): nothing is derived from this base class yet; define, or import, its events before the handler"
        )
    return found


def _check_event_class(event_class: object) -> None:
    if isinstance(event_class, type) and issubclass(event_class, Event):
        if event_class is not Event:
            return
        raise UsageError("on(Event) would mean every event of every topic; name the event classes")
    if isinstance(event_class, types.FunctionType):
        raise UsageError(f"@on stands before {event_class.__qualname__} without event classes; write @service.on(OrderPlaced)")
    raise UsageError(f"on({event_class!r}): give event classes, subclasses of headwater.Event")


def _checked_handler(function: Callable[..., Any], event_classes: tuple[type[Event], ...]) -> Handler:
    handler, events = _read_handler(function)
    _check_event_annotation(handler.name, events, event_classes)
    return replace(handler, event_classes=event_classes)


def _checked_category_handler(function: Callable[..., Any], category: str) -> Handler:
    handler, events = _read_handler(function)
    if events.annotation not in (Event, RecordedEvent, Any, events.empty):
        raise UsageError(
            f"the handler {handler.name} gets everything of the category {category!r}: annotate its parameter {events.name!r} as RecordedEvent, for "
            "events as they are in the log, or as Event, for events of their classes; for some classes alone name them: on(OrderPlaced, OrderPaid)"
        )
    return replace(handler, category=category, takes_recorded=events.annotation is RecordedEvent)


def _read_handler(function: Callable[..., Any]) -> tuple[Handler, inspect.Parameter]:
    """What a function says of itself, and its parameter for one event."""
    name = getattr(function, "__qualname__", None)
    if not isinstance(name, str):
        raise UsageError(f"{function!r} has no name of its own to be known by; register a function written with `async def`")
    if not inspect.iscoroutinefunction(function):
        raise UsageError(f"the handler {name} must be written with `async def`")
    parameters, needed = _parameters(function, name)
    events = parameters[0]
    takes_batch = get_origin(events.annotation) is list
    if len(parameters) == 2:
        _check_context_annotation(name, parameters[1], BatchContext if takes_batch else Context)
    handler = Handler(
        name=name,
        function=function,
        takes_context=len(parameters) == 2,
        event_classes=(),
        needs=_needs(needed, name),
        takes_batch=takes_batch,
    )
    return handler, events.replace(annotation=get_args(events.annotation)[0]) if takes_batch else events


def _parameters(function: Callable[..., Any], name: str) -> tuple[Sequence[inspect.Parameter], Sequence[inspect.Parameter]]:
    """Those for the event and the context, and those that providers fill."""
    parameters = list(_signature(function).parameters.values())
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = [p for p in parameters if p.default is p.empty and p.kind is p.KEYWORD_ONLY]
    if not 1 <= len(positional) <= 2 or any(p.kind is p.VAR_POSITIONAL for p in parameters):
        listed = ", ".join(str(p).split(":")[0] for p in parameters)
        raise UsageError(
            f"the handler {name}({listed}) must take (event) or (event, context), or a list of events instead of one; what a provider makes for it "
            "stands behind a star: (event, context, *, payments: PaymentClient)"
        )
    return positional, needed


def _needs(parameters: Iterable[inspect.Parameter], name: str) -> tuple[tuple[str, type], ...]:
    """What a handler's keyword-only parameters without a default ask for.

    Raises:
        UsageError: one does not name a class.
    """
    needs: list[tuple[str, type]] = []
    for parameter in parameters:
        if parameter.annotation is parameter.empty or not isinstance(parameter.annotation, type):
            raise UsageError(
                f"the handler {name} needs {parameter.name!r}, but does not say of which class; annotate it: *, {parameter.name}: PaymentClient"
            )
        needs.append((parameter.name, parameter.annotation))
    return tuple(needs)


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


def _check_context_annotation(name: str, parameter: inspect.Parameter, context_class: type[EffectContext]) -> None:
    accepted = _classes_in(parameter.annotation)
    if accepted is not None and not any(issubclass(context_class, c) for c in accepted):
        raise UsageError(
            f"the handler {name} takes as its second parameter the context; annotate {parameter.name!r} as {context_class.__name__}"
        )


def _classes_in(annotation: object) -> tuple[type, ...] | None:
    """The classes that an annotation names, or None where it says nothing that could be checked here."""
    if annotation is inspect.Parameter.empty or annotation is Any:
        return None
    members = cast("tuple[object, ...]", get_args(annotation)) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    classes = tuple(member for member in members if isinstance(member, type) and get_origin(member) is None)
    return classes if len(classes) == len(members) else None
