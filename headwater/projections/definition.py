"""What a projection is: its name, the events it takes, and how its definition is recognised again."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from headwater.errors import UsageError
from headwater.messages import Event
from headwater.postgres import DEFAULT_SCHEMA

if TYPE_CHECKING:
    from headwater.projections.fold import Projection
    from headwater.projections.sql_projection import SqlProjection

NAME_CHARACTERS_MAX: Final = 40
"""The longest name of a projection: with prefix and suffix it names a schema, whose limit is 63."""
HOME_CHARACTERS_MAX: Final = 55
"""The longest schema name of a live version; other versions append up to 8. Only a tenant's long names come near it."""
KEY_BYTES_MAX: Final = 2_000
"""The longest key of a row, in UTF-8: PostgreSQL's indexes take no more."""
LIVE: Final = "live"
NEXT: Final = "next"

Key: TypeAlias = "str | Callable[[Any], object] | None"
AnyProjection: TypeAlias = "type[Projection | SqlProjection]"
MethodT = TypeVar("MethodT", bound=Callable[..., object])

_MARK: Final = "__headwater_events__"
_NAME = re.compile(r"[a-z](?:_?[a-z0-9])*")
_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def on(*event_classes: type[Event]) -> Callable[[MethodT], MethodT]:
    """Mark a projection's method as the one that takes these events.

    In a `Projection` it is `def ordered(self, event)` and changes `self`; in an `SqlProjection` it is `async def ordered(self, event, connection)`.

    Raises:
        UsageError: at import, when no event class is named.
    """
    if not event_classes or not all(_is_event_class(event_class) for event_class in event_classes):
        raise UsageError("@on names the event classes that the method takes: @on(OrderPlaced), with subclasses of Event")

    def mark(method: MethodT) -> MethodT:
        setattr(method, _MARK, event_classes)
        return method

    return mark


@dataclass(frozen=True, slots=True)
class Handler:
    """The method of a projection that takes the events of one class."""

    event_class: type[Event]
    function: Callable[..., Any]


@dataclass(frozen=True, slots=True)
class ProjectionDefinition:
    """A projection, checked and ready to run."""

    name: str
    projection_class: AnyProjection
    is_sql: bool
    handlers: Mapping[str, Handler]
    """By event type."""
    key: Key = None

    def schema_name(self, role: str = LIVE, *, log_schema: str = DEFAULT_SCHEMA) -> str:
        """The schema in which a version of it lives: no other version's, and no other log's in the same database."""
        home = f"projection_{self.name}" if log_schema == DEFAULT_SCHEMA else f"{log_schema}__{self.name}"
        if len(home) > HOME_CHARACTERS_MAX:
            home = f"{home[: HOME_CHARACTERS_MAX - 9]}_{hashlib.sha256(home.encode()).hexdigest()[:8]}"
        return home if role == LIVE else f"{home}__{role}"

    @property
    def event_classes(self) -> tuple[type[Event], ...]:
        return tuple(handler.event_class for handler in self.handlers.values())

    @property
    def shape(self) -> str:
        """Recognises what its rows look like and which events they are made of: another shape needs a rebuild."""
        key = self.key if self.key is None or isinstance(self.key, str) else "callable"
        return _digest("shape", self.is_sql, key, sorted(self.handlers), self.projection_class.shape_parts())

    @property
    def fingerprint(self) -> str:
        """Recognises its code, too: a rebuild begun by other code starts over."""
        methods = [handler.function for _, handler in sorted(self.handlers.items())]
        functions = [f for f in (*methods, *vars(self.projection_class).values(), self.key) if isinstance(f, FunctionType)]
        return _digest(self.shape, [_code_parts(function.__code__, function.__doc__) for function in functions])


def definition_of(projection_class: AnyProjection) -> ProjectionDefinition:
    """The checked definition of a projection that is about to be run, read or rebuilt.

    Raises:
        UsageError: it is no projection, or takes no events.
    """
    found: object = getattr(projection_class, "__headwater_definition__", None)
    if not isinstance(found, ProjectionDefinition):
        raise UsageError(f"{projection_class!r} is no projection; give a subclass of Projection or SqlProjection")
    if not found.handlers:
        raise UsageError(f"the projection {projection_class.__name__} takes no events; mark its methods with @on(OrderPlaced)")
    return found


def projection_name_of(class_name: str) -> str:
    """The class's name in snake case, which names the projection and its schema.

    Raises:
        UsageError: it is too long, or has what a schema's name should not.
    """
    name = _WORD_START.sub("_", class_name).lower()
    if not _NAME.fullmatch(name) or len(name) > NAME_CHARACTERS_MAX:
        raise UsageError(
            f"the projection class {class_name} would be named {name!r}, which names its schema: use at most {NAME_CHARACTERS_MAX} letters, "
            "digits and single underscores, starting with a letter"
        )
    return name


def collect_handlers(projection_class: type, *, is_sql: bool) -> dict[str, Handler]:
    """The marked methods of a class and its bases, by event type.

    Raises:
        UsageError: a method cannot take the events it names, or two take the same.
    """
    members: dict[str, Any] = {}
    for base in reversed(projection_class.__mro__):
        members.update(vars(base))
    handlers: dict[str, Handler] = {}
    for method in members.values():
        for event_class in cast("tuple[type[Event], ...]", getattr(method, _MARK, ())):
            _check_method(projection_class, method, event_class, is_sql=is_sql)
            if (other := handlers.get(event_class.event_type)) is not None:
                raise UsageError(
                    f"{projection_class.__name__}: both {other.function.__name__} and {method.__name__} take {event_class.event_type}; "
                    "let one method take it"
                )
            handlers[event_class.event_type] = Handler(event_class, method)
    return handlers


def check_key(projection_class: type, key: Key, handlers: Mapping[str, Handler]) -> None:
    """Make sure that every event has the attribute that says which row it belongs to.

    Raises:
        UsageError: naming the event class and the field.
    """
    if not isinstance(key, str):
        if key is not None and not callable(key):
            raise UsageError(
                f'{projection_class.__name__}: key={key!r} must name an attribute of its events, key="sku", or be a function of the event'
            )
        return
    for handler in handlers.values():
        if key not in handler.event_class.model_fields and not hasattr(handler.event_class, key):
            fields = ", ".join(handler.event_class.model_fields) or "none"
            raise UsageError(
                f"{projection_class.__name__}: {handler.event_class.__name__} has no field {key!r}, which the projection's key names "
                f"(its fields: {fields}); name another, or give a function: key=lambda event: …"
            )


def key_text(key: object) -> str:
    """A row's key as it is stored.

    Raises:
        UsageError: it cannot be stored.
    """
    text = str(key.value if isinstance(key, Enum) else key)
    if "\x00" in text or (len(text) * 4 > KEY_BYTES_MAX and len(text.encode(errors="replace")) > KEY_BYTES_MAX):
        raise UsageError(f"the key {text[:40]!r}… cannot name a row: use at most {KEY_BYTES_MAX:,} bytes of UTF-8, without NUL")
    return text


def _is_event_class(given: object) -> bool:
    return inspect.isclass(given) and issubclass(given, Event) and given is not Event


def _check_method(projection_class: type, method: Any, event_class: type[Event], *, is_sql: bool) -> None:
    if not inspect.isfunction(method):
        raise UsageError(f"{projection_class.__name__}: @on goes on a plain method, not on {type(method).__name__}")
    name = f"{projection_class.__name__}.{method.__name__}"
    wanted = "async def {}(self, event, connection)" if is_sql else "def {}(self, event)"
    is_async = inspect.iscoroutinefunction(method)
    try:
        inspect.signature(method).bind(*range(3 if is_sql else 2))
    except TypeError:
        fits = False
    else:
        fits = True
    if not fits or is_async is not is_sql or inspect.isgeneratorfunction(method):
        raise UsageError(f"{name} takes {event_class.__name__} and must be written: {wanted.format(method.__name__)}")
    if (hint := _event_hint(method, event_class)) is not None and not _takes(hint, event_class):
        raise UsageError(
            f"{name} is marked @on({event_class.__name__}), but its parameter is annotated {getattr(hint, '__name__', hint)}; make them agree"
        )


def _event_hint(method: FunctionType, event_class: type[Event]) -> Any:
    """The annotation of the method's event; None where there is none that can be read here."""
    parameter = list(inspect.signature(method).parameters)[1]
    try:
        return get_type_hints(method, localns={event_class.__name__: event_class}).get(parameter)
    except (NameError, AttributeError, TypeError):
        pass
    # One name that cannot be resolved (imported for type checkers alone) must not hide the others.
    annotation = method.__annotations__.get(parameter)
    return event_class if annotation == event_class.__name__ else annotation if inspect.isclass(annotation) else None


def _takes(hint: Any, event_class: type[Event]) -> bool:
    if get_origin(hint) is Union or type(hint).__name__ == "UnionType":
        return any(_takes(arm, event_class) for arm in get_args(hint))
    return not inspect.isclass(hint) or issubclass(event_class, hint)


def _digest(*parts: object) -> str:
    return hashlib.sha256(_ADDRESS.sub("", repr(parts)).encode(errors="replace")).hexdigest()[:32]


def _code_parts(code: CodeType, doc: str | None = None) -> list[object]:
    """What a function does, without where it stands and what it says about itself."""
    constants: list[object] = []
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            constants.append(_code_parts(constant))
        elif isinstance(constant, frozenset):
            constants.append(sorted(map(repr, cast("frozenset[object]", constant))))
        elif doc is None or constant != doc:
            constants.append(constant)
    return [code.co_name, code.co_code.hex(), constants, code.co_names, code.co_varnames]
