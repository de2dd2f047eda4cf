"""Events: what users write, what goes into the log, and what comes out of it.

An `Event` subclass is a fact's shape; a `NewEvent` is one fact ready to be stored (encoded, with its id and metadata); a `RecordedEvent` is one
that has its place in a stream and in the log. `EventRegistry` finds the class for a name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any, ClassVar, Final, Literal, NamedTuple, Protocol, TypeAlias, TypeVar, cast
from uuid import UUID

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import PydanticSerializationError

from headwater.checks import CONTROL, CONTROL_CHARACTERS, check_metadata, check_tags, check_type, field_with_nul, has_nul
from headwater.errors import InvalidEvent, InvalidStreamName, SealBroken, UnknownEventType, UsageError
from headwater.frozen import maker
from headwater.personal import PersonalFields, personal_fields_of
from headwater.randomness import uuid7
from headwater.telemetry import current_correlation
from headwater.tracing import produced_under

EVENT_BYTES_MAX: Final = 1024 * 1024
"""The most an event's data may take, in bytes of JSON as PostgreSQL prints it."""
EVENTS_PER_APPEND_MAX: Final = 1_000
"""The most events one append may carry."""
APPEND_CHARACTERS_MAX: Final = 64 * 1024 * 1024
"""The most characters of JSON one append may carry; PostgreSQL's protocol ends a little below 1 GiB."""
STREAM_NAME_CHARACTERS_MAX: Final = 500
"""The longest stream name."""
CATEGORY_CHARACTERS_MAX: Final = 200
"""The longest category: it names a Kafka topic, whose own limit is 249."""

NO_STREAM: Final = 0
"""Expect that the stream does not exist yet."""


class StreamExpectation(Enum):
    """What a writer may expect of a stream beside a version."""

    ANY = "any version"
    STREAM_EXISTS = "an existing stream"


ANY: Final = StreamExpectation.ANY
"""Expect nothing: append wherever the stream ends."""
STREAM_EXISTS: Final = StreamExpectation.STREAM_EXISTS
"""Expect that the stream has at least one event."""

ExpectedVersion: TypeAlias = int | Literal[StreamExpectation.ANY, StreamExpectation.STREAM_EXISTS]
Metadata: TypeAlias = Mapping[str, str]

CORRELATION_ID: Final = "correlation_id"
CAUSATION_ID: Final = "causation_id"
TRACEPARENT: Final = "traceparent"
IDEMPOTENCY_KEY: Final = "idempotency_key"
"""The same in every message that says the same again."""
SEALED_FIELDS: Final = "headwater_sealed"
"""Metadata of an event with sealed personal data: the names of those fields, a JSON list. Only the store that seals writes it."""

_FIRST_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z0-9]+|[A-Z]+")
_CATEGORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._]*")
_STREAM_NAME = re.compile(f"[A-Za-z0-9][A-Za-z0-9._]{{0,{CATEGORY_CHARACTERS_MAX - 1}}}(?:-[^{CONTROL_CHARACTERS}]*)?")


class LogPosition(NamedTuple):
    """A place in a log across its lives: ordered by epoch, then position. Written `epoch:position`."""

    epoch: int
    global_position: int

    def __str__(self) -> str:
        return f"{self.epoch}:{self.global_position}"

    @classmethod
    def parse(cls, text: str) -> LogPosition:
        """Read what `str` wrote; raises ValueError for anything else."""
        epoch, _, position = text.partition(":")
        return cls(int(epoch), int(position))


LOG_START: Final = LogPosition(1, 0)
"""Before the first event of any log."""


# -- stream names -----------------------------------------------------------------------------------------------------


def category_of(stream_name: str) -> str:
    """What stands before the first dash; it names the topic."""
    return stream_name.partition("-")[0]


def check_stream_name(stream_name: str) -> str:
    """Return the name, if it may name a stream.

    Raises:
        InvalidStreamName: empty, too long, with control characters, or with a category that cannot name a Kafka topic.
    """
    if _is_text(stream_name) and len(stream_name) <= STREAM_NAME_CHARACTERS_MAX and _STREAM_NAME.fullmatch(stream_name):
        return stream_name  # as nearly always
    if not _is_text(stream_name):
        raise InvalidStreamName(f"a stream name is text, not {type(stream_name).__name__}; name streams 'category-id', like 'order-1'")
    if not stream_name:
        raise InvalidStreamName("a stream name is empty; name streams 'category-id', like 'order-1'")
    if len(stream_name) > STREAM_NAME_CHARACTERS_MAX:
        raise InvalidStreamName(
            f"the stream name {stream_name[:40]!r}… has {len(stream_name):,} characters; at most {STREAM_NAME_CHARACTERS_MAX} are allowed: "
            "keep the id short and put the rest into the event"
        )
    if CONTROL.search(stream_name):
        raise InvalidStreamName(f"the stream name {stream_name!r} has a control character or half a surrogate pair; remove it")
    check_category(category_of(stream_name), owner=f"the stream name {stream_name!r}")
    return stream_name


def _is_text(given: object) -> bool:
    """For callers without a type checker, who give anything."""
    return isinstance(given, str)


def check_category(category: str, *, owner: str) -> str:
    """Return the category, if it may name a topic."""
    if not _CATEGORY.fullmatch(category) or len(category) > CATEGORY_CHARACTERS_MAX:
        raise InvalidStreamName(
            f"{owner} has the category {category[:60]!r} (what stands before the first dash), which names a Kafka topic: "
            f"use 1 to {CATEGORY_CHARACTERS_MAX} letters, digits, dots or underscores, starting with a letter or digit"
        )
    return category


# -- event classes ----------------------------------------------------------------------------------------------------


class Event(BaseModel):
    """A fact: subclass it, name it in the past tense, give it fields.

    The class's name is the event's type. Its category, which names the Kafka topic, is the first word of the class's name in lower case
    (`OrderPlaced` → `order`), or what the class says: `class ItemAdded(Event, category="cart")`. Subclasses inherit a said category.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64", ser_json_inf_nan="strings")

    event_type: ClassVar[str] = "Event"
    event_category: ClassVar[str] = "event"
    _said_category: ClassVar[str | None] = None

    def __init_subclass__(cls, *, category: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.event_type = cls.__name__
        if category is not None:
            cls._said_category = check_category(category, owner=f"the event class {cls.__name__}")
        first_word = _FIRST_WORD.search(cls.__name__)
        cls.event_category = cls._said_category or (first_word.group().lower() if first_word else cls.__name__.lower())

    def event_tags(self) -> tuple[str, ...]:
        """What conditional appends may ask for beside the type, such as `(f"course:{self.course_id}",)`; override it. Not encrypted, not personal."""
        return ()

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        _catalogue.setdefault(cls.event_type, []).append(cls)
        # A class with names that are not known yet is looked at again when it is used.
        if not cls.__pydantic_complete__ or personal_fields_of(cls) is not None:
            _maybe_personal.add(cls.event_type)


_catalogue: dict[str, list[type[Event]]] = {}
_maybe_personal: set[str] = set()
EventT = TypeVar("EventT", bound=Event)


def personal_fields_by_type(event_type: str, registry: EventRegistry) -> PersonalFields | None:
    """The personal fields of the class of this name, or None; one look into a set where no class of this process has any.

    Raises:
        UnknownEventType: several classes have this name, and the registry does not say which is meant.
    """
    return personal_fields_of(registry.find(event_type)) if event_type in _maybe_personal else None


def are_events_personal() -> bool:
    """Whether any event class of this process has personal fields."""
    return bool(_maybe_personal)


class Upcaster(Protocol):
    """Brings what was stored to its present shape before it is decoded, wherever it comes from. Pure, and quick: it sees every event read."""

    def current_type(self, stored_type: str) -> str:
        """What events stored under this type are called now."""
        ...

    def upcast(self, recorded: RecordedEvent) -> RecordedEvent:
        """The event with its present type, data and metadata; the same object where nothing changes."""
        ...


class EventRegistry:
    """Finds the event class of a name: first among those this registry was given, then among all that were ever imported."""

    def __init__(self, event_classes: Iterable[type[Event]] = (), *, upcaster: Upcaster | None = None) -> None:
        self.upcaster = upcaster
        """Changes what was stored before it is decoded; None changes nothing."""
        self._classes: dict[str, type[Event]] = {}
        for event_class in event_classes:
            self.register(event_class)

    def register(self, event_class: type[EventT]) -> type[EventT]:
        """Make this class the meaning of its name here.

        Raises:
            UsageError: another class of that name is registered already.
        """
        known = self._classes.setdefault(event_class.event_type, event_class)
        if known is not event_class and (known.__module__, known.__qualname__) != (event_class.__module__, event_class.__qualname__):
            raise UsageError(
                f"two event classes are named {event_class.event_type}: {known.__module__} and {event_class.__module__}; rename one of them"
            )
        self._classes[event_class.event_type] = event_class
        return event_class

    def find(self, event_type: str) -> type[Event]:
        """The class of this name.

        Raises:
            UnknownEventType: no class of this name was registered or imported, or several were.
        """
        if (known := self._classes.get(event_type)) is not None:
            return known
        candidates = {(c.__module__, c.__qualname__): c for c in _catalogue.get(event_type, [])}
        if len(candidates) == 1:
            return next(iter(candidates.values()))
        if candidates:
            modules = ", ".join(sorted(module for module, _ in candidates))
            raise UnknownEventType(
                f"several event classes are named {event_type} (in {modules}); say which with service.events.register(...)",
                event_type=event_type,
            )
        known_types = ", ".join(sorted(self._classes)) or "none"
        raise UnknownEventType(
            f"no event class is named {event_type!r}; define `class {event_type}(Event)` and import it before use (registered here: {known_types})",
            event_type=event_type,
        )

    def decode(self, recorded: RecordedEvent) -> Event:
        """The typed event, of its present shape; fields this version of the class does not know are passed over.

        Raises:
            UnknownEventType: no class of this name is known.
            InvalidEvent: the stored data does not fit the class.
        """
        if self.upcaster is not None:
            recorded = self.upcaster.upcast(recorded)
        return decode(self.find(recorded.type), recorded)

    def decode_as(self, event_class: type[EventT], recorded: RecordedEvent) -> EventT:
        """The same for a class that is known already.

        Raises:
            InvalidEvent: the stored data does not fit the class.
        """
        return decode(event_class, recorded if self.upcaster is None else self.upcaster.upcast(recorded))

    def current_type(self, stored_type: str) -> str:
        """What events stored under this type are called now."""
        return stored_type if self.upcaster is None else self.upcaster.current_type(stored_type)

    def build(self, event_type: str, data: Mapping[str, Any]) -> Event:
        """A typed event from a name and data, checked strictly.

        Raises:
            UnknownEventType: no class of this name is known.
            InvalidEvent: the data does not fit the class; every fault is named.
        """
        event_class = self.find(event_type)
        try:
            return event_class.model_validate(dict(data))
        except ValidationError as error:
            raise InvalidEvent(f"the data does not fit {event_type}: {faults(error)}") from None

    def __iter__(self) -> Iterator[type[Event]]:
        return iter(self._classes.values())


def decode(event_class: type[EventT], recorded: RecordedEvent) -> EventT:
    """The recorded event as this class; unknown fields are passed over.

    Raises:
        InvalidEvent: the stored data does not fit the class.
        SealBroken: its personal data is sealed still.
    """
    if SEALED_FIELDS in recorded.metadata:
        raise SealBroken(
            f"{recorded.type} at position {recorded.global_position} of {recorded.stream_name!r} is sealed still: it was read from a store that does "
            "not open personal data (read it through service.store), or a sealed value was altered (the fact sealed_value_altered in the log tells)"
        )
    try:
        decoded: EventT = event_class.__pydantic_validator__.validate_json(recorded.data, extra="ignore")
    except ValidationError as error:
        raise InvalidEvent(
            f"{recorded.type} at position {recorded.global_position} of {recorded.stream_name!r} does not fit the class "
            f"{event_class.__module__}.{event_class.__qualname__}: {faults(error)}"
        ) from None
    return decoded


def faults(error: ValidationError) -> str:
    """Each fault of a failed validation with the field it is in, without the values."""
    return "; ".join(
        f"{'.'.join(str(part) for part in fault['loc']) or '(whole)'}: {fault['msg']}"
        for fault in error.errors(include_url=False, include_context=False, include_input=False)
    )


# -- before storing ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NewEvent:
    """One fact ready to be stored. Keep it to repeat an append whose outcome is unknown: its id stores it once."""

    type: str
    data: str
    """JSON text."""
    category: str | None = None
    """Where its class belongs; None belongs anywhere."""
    event_id: UUID = field(default_factory=uuid7)
    metadata: Metadata = field(default_factory=dict[str, str])
    tags: tuple[str, ...] = ()
    """What conditional appends may ask for beside the type."""
    personal: PersonalFields | None = field(default=None, repr=False, compare=False)
    """Personal fields that are not sealed yet; only a store that seals takes them."""

    @classmethod
    def of(cls, event: Event, *, metadata: Metadata | None = None, event_id: UUID | None = None) -> NewEvent:
        """Encode an event, with correlation and causation from what is being handled now.

        Raises:
            InvalidEvent: it holds what JSON or PostgreSQL cannot.
        """
        try:
            encoded = event.__pydantic_serializer__.to_json(event)
        except (PydanticSerializationError, UnicodeEncodeError) as error:
            raise InvalidEvent(f"{event.event_type} cannot be written as JSON: {error}") from None
        if b"\\" in encoded and b"\\u0000" in encoded and has_nul(encoded.decode()):
            raise InvalidEvent(
                f"{event.event_type} has a NUL character (U+0000) in {field_with_nul(event, event.event_type)}; "
                "PostgreSQL cannot store it in text: remove it, or use bytes"
            )
        if len(encoded) > EVENT_BYTES_MAX:
            raise InvalidEvent(
                f"{event.event_type} takes {len(encoded):,} bytes as JSON; at most {EVENT_BYTES_MAX:,} are allowed: "
                "store large content elsewhere and put its address into the event"
            )
        event_id = event_id or uuid7()
        return _new_event(
            event.event_type,
            encoded.decode(),
            event.event_category,
            event_id,
            with_correlation(metadata or {}, event_id),
            event.event_tags(),
            personal_fields_of(type(event)) if event.event_type in _maybe_personal else None,
        )


_new_event = maker(NewEvent)


def with_correlation(metadata: Metadata, event_id: UUID) -> Metadata:
    """The metadata, completed with the ids of what is being handled now; an event that nothing caused starts a story of its own."""
    correlation, traceparent = current_correlation(), produced_under()
    if correlation is None:
        bound = {CORRELATION_ID: str(event_id)}
    else:
        bound = {CORRELATION_ID: correlation.correlation_id, CAUSATION_ID: correlation.causation_id}
        traceparent = traceparent or correlation.traceparent
    if traceparent:
        bound[TRACEPARENT] = traceparent
    return {**bound, **metadata}


def prepare(events: Iterable[Event | NewEvent], *, stream_name: str) -> list[NewEvent]:
    """Encode and check what is to be appended to this stream.

    Raises:
        InvalidEvent: nothing, too much, or an event that cannot be stored.
        InvalidStreamName: the name breaks a limit.
        UsageError: an event's class belongs to another category than the stream.
    """
    category = category_of(check_stream_name(stream_name))
    prepared = [_as_new_event(event) for event in _several(events)]
    characters = 0
    if not 1 <= len(prepared) <= EVENTS_PER_APPEND_MAX:
        raise InvalidEvent(f"an append carries 1 to {EVENTS_PER_APPEND_MAX} events, not {len(prepared)}")
    for event in prepared:
        if event.category is not None and event.category != category:
            raise UsageError(
                f"{event.type} belongs to the category {event.category!r}, but the stream {stream_name!r} to {category!r}: its handlers would "
                f'never see it. Append it to a stream "{event.category}-…", or say its category: class {event.type}(Event, category="{category}")'
            )
        check_type(event.type)
        check_metadata(event.type, event.metadata)
        if event.tags:
            check_tags(event.type, event.tags)
        if event.personal is not None:
            raise UsageError(
                f"{event.type} has personal fields ({', '.join(event.personal.by_name)}), which this store would keep unencrypted; append it through "
                "service.store, or through PersonalEventStore(store, personal_data)"
            )
        characters += len(event.data)
    if characters > APPEND_CHARACTERS_MAX:
        raise InvalidEvent(
            f"the append carries {characters:,} characters of JSON; at most {APPEND_CHARACTERS_MAX:,} are allowed: divide it"
        )
    return prepared


def _several(events: object) -> Iterable[object]:
    """What was given as events, if it is several; a pydantic model can be iterated, too, and would come apart into its fields."""
    if isinstance(events, (list, tuple)):
        return cast("Iterable[object]", events)
    kind = type(events).__name__
    if isinstance(events, (Event, NewEvent, str, bytes, Mapping)) or not isinstance(events, Iterable):
        raise UsageError(f"append takes a list of events, not {kind}; write [event]")
    return cast("Iterable[object]", events)


def _as_new_event(event: object) -> NewEvent:
    if isinstance(event, NewEvent):
        return event
    if not isinstance(event, Event):
        raise UsageError(f"{type(event).__name__} is no event; give instances of Event, or NewEvent(type, data)")
    return NewEvent.of(event)


# -- after storing ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """A fact with its place in its stream and in the log."""

    global_position: int
    stream_name: str
    version: int
    type: str
    data: str
    """JSON text."""
    metadata: Metadata
    event_id: UUID
    recorded_at: datetime
    keys_asked_at: float | None = field(default=None, repr=False, compare=False)
    """Where personal data was opened: when its keys were asked for, at the earliest, in monotonic seconds. None where nothing was sealed."""

    @property
    def category(self) -> str:
        return category_of(self.stream_name)

    @property
    def correlation_id(self) -> str:
        """The story this event belongs to; its own id when nothing says otherwise."""
        return self.metadata.get(CORRELATION_ID) or str(self.event_id)


make_recorded_event: Final = maker(RecordedEvent)
"""`RecordedEvent(…)`, faster; arguments go by position."""


class AppendResult(NamedTuple):
    """Where an append ended: version and position of its last event."""

    stream_name: str
    version: int
    global_position: int
