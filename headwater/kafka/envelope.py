"""One event as a Kafka record, and back: CloudEvents headers in binary mode, and where the event stands in its log.

Pure: no client, no clock. The relay encodes, every consumer decodes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, Generic, TypeVar
from uuid import UUID

from headwater.errors import NotAnEnvelope
from headwater.frozen import maker
from headwater.kafka.values import JSON_DECODER, JSON_ENCODER, EncodedValue, ValueDecoder
from headwater.messages import CAUSATION_ID, CORRELATION_ID, TRACEPARENT, LogPosition, RecordedEvent, category_of, make_recorded_event

SPEC_VERSION: Final = "ce_specversion"
EVENT_ID: Final = "ce_id"
EVENT_TYPE: Final = "ce_type"
SOURCE: Final = "ce_source"
RECORDED_AT: Final = "ce_time"
STREAM_NAME: Final = "ce_subject"
CONTENT_TYPE: Final = "content-type"
LOG_ID: Final = "headwater-log"
POSITION: Final = "headwater-position"
PREVIOUS: Final = "headwater-previous"
VERSION: Final = "headwater-version"
METADATA_PREFIX: Final = "headwater-meta-"

Header = tuple[str, bytes]
Record = tuple[bytes, bytes, list[Header], int]
"""Key, value, headers and timestamp in milliseconds, as a producer takes them."""

_CONSTANTS_MAX: Final = 1_024
"""Types of events, names of metadata; a log with more of them forgets and makes them again."""
_SPEC_VERSION_HEADER: Final = (SPEC_VERSION, b"1.0")
_PLAIN_METADATA: Final = frozenset({TRACEPARENT, CORRELATION_ID, CAUSATION_ID})
"""Metadata whose header has the same name, so that tools which know nothing of Headwater find it."""


_OWN_HEADERS: Final = frozenset(
    {SPEC_VERSION, EVENT_ID, EVENT_TYPE, SOURCE, RECORDED_AT, STREAM_NAME, CONTENT_TYPE, LOG_ID, POSITION, PREVIOUS, VERSION}
)
_HEADERS_MIN: Final = len(_OWN_HEADERS)

Parsed = TypeVar("Parsed")


@dataclass(frozen=True, slots=True)
class Envelope:
    """One event on its way, and where it comes from."""

    event: RecordedEvent
    log_id: UUID
    position: LogPosition
    previous: LogPosition
    """The position of this log's record before this one in the same Kafka partition; `LOG_START` for the first."""


_make_envelope: Final = maker(Envelope)


def topic_of(category: str, prefix: str = "") -> str:
    """The topic that carries a category; the prefix keeps apart the logs of one database."""
    return prefix + category


class RecordEncoder:
    """Makes the records of one log's events: key is the stream's name, value the event's content, the rest are headers.

    What stays the same from one record to the next is made once; a relay makes tens of thousands a second.
    """

    __slots__ = ("_content_types", "_log", "_metadata_names", "_source", "_time", "_timestamp_ms", "_types", "_written_at")

    def __init__(self, log_id: UUID, *, source: str) -> None:
        """Args:
        source: the CloudEvents source, like `/services/orders`.
        """
        self._log, self._source = (LOG_ID, str(log_id).encode()), (SOURCE, source.encode())
        self._types, self._content_types = _ConstantHeaders(EVENT_TYPE), _ConstantHeaders(CONTENT_TYPE)
        self._metadata_names = _MetadataNames()
        self._written_at: datetime | None = None
        self._time, self._timestamp_ms = (RECORDED_AT, b""), 0

    def encode(self, event: RecordedEvent, encoded: EncodedValue, position: bytes, previous: bytes) -> Record:
        """The record to send.

        Args:
            encoded: the value and its content type.
            position, previous: where the event stands in its log, and its predecessor in the partition: `position_text` of either.
        """
        value, content_type = encoded
        recorded_at = event.recorded_at
        if recorded_at != self._written_at:
            # Events of one append share their moment.
            self._written_at = recorded_at
            self._time, self._timestamp_ms = (RECORDED_AT, recorded_at.isoformat().encode()), int(recorded_at.timestamp() * 1000)
        key = event.stream_name.encode()
        headers: list[Header] = [
            _SPEC_VERSION_HEADER,
            (EVENT_ID, str(event.event_id).encode()),
            self._types[event.type],
            self._source,
            self._time,
            (STREAM_NAME, key),
            self._content_types[content_type],
            self._log,
            (POSITION, position),
            (PREVIOUS, previous),
            (VERSION, b"%d" % event.version),
        ]
        names = self._metadata_names
        for name, text in event.metadata.items():
            headers.append((names[name], text.encode()))
        return key, value, headers, self._timestamp_ms


class _ConstantHeaders(dict[str | bytes, Header]):
    """Headers whose values come again and again: types of events, of content."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __missing__(self, value: str | bytes) -> Header:
        if len(self) >= _CONSTANTS_MAX:
            self.clear()
        header = self[value] = (self._name, value.encode() if isinstance(value, str) else value)
        return header


class _MetadataNames(dict[str, str]):
    """What the headers of metadata are called."""

    def __missing__(self, name: str) -> str:
        if len(self) >= _CONSTANTS_MAX:
            self.clear()
        found = self[name] = name if name in _PLAIN_METADATA else METADATA_PREFIX + name
        return found


def position_text(position: LogPosition) -> bytes:
    """A position as headers hold it."""
    return b"%d:%d" % position


def encode_envelope(envelope: Envelope, *, source: str, encoded: EncodedValue | None = None) -> Record:
    """The record of one event alone; see `RecordEncoder`.

    Args:
        encoded: the value and its content type; the event's JSON when it is not given.
    """
    return RecordEncoder(envelope.log_id, source=source).encode(
        envelope.event, encoded or JSON_ENCODER.encode(envelope.event), position_text(envelope.position), position_text(envelope.previous)
    )


def decode_record(
    key: bytes | None, value: bytes | None, headers: Sequence[Header], timestamp_ms: int, *, values: ValueDecoder = JSON_DECODER
) -> Envelope:
    """The envelope that the record carries, whole.

    Args:
        values: reads the value; was prepared for it.
    Raises:
        NotAnEnvelope: no relay wrote it, or it was damaged on the way; the message says what is missing or wrong.
        UnknownSchema, SchemaMismatch: the value cannot be read; see `ValueDecoder.decode`.
    """
    envelope = decode_headers(key, headers, timestamp_ms)
    return replace(envelope, event=replace(envelope.event, data=values.decode(value, kind_of(headers)[1])))


def decode_headers(key: bytes | None, headers: Sequence[Header], timestamp_ms: int, *, data: str = "") -> Envelope:
    """The envelope that the record's key and headers tell of, with data from elsewhere: they can be read where the value cannot.

    Raises:
        NotAnEnvelope: no relay wrote it, or it was damaged on the way; the message says what is missing or wrong.
    """
    return RecordDecoder().decode(key, dict(headers), timestamp_ms, data)


class RecordDecoder:
    """Reads the headers of record after record, remembering what comes again: the log, the moment, the predecessor."""

    __slots__ = ("_log_id", "_position", "_recorded_at")

    def __init__(self) -> None:
        self._log_id, self._recorded_at, self._position = _Remembered(UUID), _Remembered(_moment), _Remembered(LogPosition.parse)

    def decode(self, key: bytes | None, headers: Mapping[str, bytes], timestamp_ms: int, data: str) -> Envelope:
        """The envelope of a record; see `decode_headers`."""
        try:
            previous = self._position(headers[PREVIOUS])
            position = self._position(headers[POSITION])
            subject = headers[STREAM_NAME]
            stream_name = subject.decode()
            event = make_recorded_event(
                position.global_position,
                stream_name,
                int(headers[VERSION]),
                headers[EVENT_TYPE].decode(),
                data,
                _metadata(headers) if len(headers) > _HEADERS_MIN else {},
                UUID(headers[EVENT_ID].decode()),
                self._recorded_at(headers[RECORDED_AT]),
            )
            log_id = self._log_id(headers[LOG_ID])
        except KeyError as error:
            raise NotAnEnvelope(
                f"the record of {timestamp_ms} ms lacks the header {error}; only a Headwater relay may write to this topic"
            ) from None
        except (ValueError, TypeError, AttributeError) as error:
            raise NotAnEnvelope(f"the record of {timestamp_ms} ms has a header that cannot be read: {error}") from None
        if key != subject:
            raise NotAnEnvelope(f"the record's key {key!r} is not its stream {stream_name!r}; its order cannot be trusted")
        if previous >= position:
            raise NotAnEnvelope(f"the record at {position} says that {previous} came before it")
        return _make_envelope(event, log_id, position, previous)


class _Remembered(Generic[Parsed]):
    """A parser that remembers the last thing it read."""

    __slots__ = ("_parse", "_parsed", "_text")

    def __init__(self, parse: Callable[[str], Parsed]) -> None:
        self._parse = parse
        self._text: bytes | None = None
        self._parsed: Parsed | None = None

    def __call__(self, text: bytes) -> Parsed:
        if text != self._text or self._parsed is None:
            self._parsed = self._parse(text.decode())
            self._text = text
        return self._parsed


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def kind_of(headers: Sequence[Header] | Mapping[str, bytes]) -> tuple[str | None, bytes | None]:
    """Which type of event the record says it has, and which type of content; None where it says nothing that can be read."""
    found = headers if isinstance(headers, dict) else dict(headers)
    event_type = found.get(EVENT_TYPE)
    try:
        return None if event_type is None else event_type.decode(), found.get(CONTENT_TYPE)
    except UnicodeDecodeError:
        return None, found.get(CONTENT_TYPE)


@dataclass(frozen=True, slots=True)
class Provenance:
    """Which event of which log a record is."""

    log_id: UUID
    position: LogPosition
    event_id: UUID


def provenance_of(headers: Sequence[Header]) -> Provenance | None:
    """Where a record comes from, without decoding the rest, or None when no relay wrote it."""
    found = dict(headers)
    try:
        return Provenance(
            log_id=UUID(found[LOG_ID].decode()),
            position=LogPosition.parse(found[POSITION].decode()),
            event_id=UUID(found[EVENT_ID].decode()),
        )
    except (KeyError, ValueError):
        return None


def event_topic(event: RecordedEvent, prefix: str = "") -> str:
    """The topic that carries an event."""
    return topic_of(category_of(event.stream_name), prefix)


def _metadata(headers: Mapping[str, bytes]) -> dict[str, str]:
    metadata: dict[str, str] = {}
    for name, value in headers.items():
        if name in _OWN_HEADERS:
            continue
        if name in _PLAIN_METADATA:
            metadata[name] = value.decode()
        elif name.startswith(METADATA_PREFIX):
            metadata[name.removeprefix(METADATA_PREFIX)] = value.decode()
    return metadata
