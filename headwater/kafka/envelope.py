"""One event as a Kafka record, and back: CloudEvents headers in binary mode, and where the event stands in its log.

Pure: no client, no clock. The relay encodes, every consumer decodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final
from uuid import UUID

from headwater.errors import NotAnEnvelope
from headwater.kafka.values import JSON_DECODER, JSON_ENCODER, EncodedValue, ValueDecoder
from headwater.messages import CAUSATION_ID, CORRELATION_ID, TRACEPARENT, LogPosition, RecordedEvent, category_of

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

_SPEC_VERSION_HEADER: Final = (SPEC_VERSION, b"1.0")
_PLAIN_METADATA: Final = frozenset({TRACEPARENT, CORRELATION_ID, CAUSATION_ID})
"""Metadata whose header has the same name, so that tools which know nothing of Headwater find it."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """One event on its way, and where it comes from."""

    event: RecordedEvent
    log_id: UUID
    position: LogPosition
    previous: LogPosition
    """The position of this log's record before this one in the same Kafka partition; `LOG_START` for the first."""


def topic_of(category: str, prefix: str = "") -> str:
    """The topic that carries a category; the prefix keeps apart the logs of one database."""
    return prefix + category


def encode_envelope(envelope: Envelope, *, source: str, encoded: EncodedValue | None = None) -> Record:
    """The record to send: key is the stream's name, value the event's content, the rest are headers.

    Args:
        source: the CloudEvents source, like `/services/orders`.
        encoded: the value and its content type; the event's JSON when it is not given.
    """
    event = envelope.event
    value, content_type = encoded or JSON_ENCODER.encode(event)
    key = event.stream_name.encode()
    headers: list[Header] = [
        _SPEC_VERSION_HEADER,
        (EVENT_ID, str(event.event_id).encode()),
        (EVENT_TYPE, event.type.encode()),
        _constant_header(SOURCE, source),
        (RECORDED_AT, event.recorded_at.isoformat().encode()),
        (STREAM_NAME, key),
        (CONTENT_TYPE, content_type),
        _constant_header(LOG_ID, envelope.log_id),
        (POSITION, b"%d:%d" % envelope.position),
        (PREVIOUS, b"%d:%d" % envelope.previous),
        (VERSION, b"%d" % event.version),
    ]
    headers += [(name if name in _PLAIN_METADATA else METADATA_PREFIX + name, value.encode()) for name, value in event.metadata.items()]
    return key, value, headers, int(event.recorded_at.timestamp() * 1000)


@lru_cache(maxsize=64)
def _constant_header(name: str, value: str | UUID) -> Header:
    """A header that is the same in record after record."""
    return name, str(value).encode()


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
    found = dict(headers)
    try:
        position, previous = (LogPosition.parse(found[name].decode()) for name in (POSITION, PREVIOUS))
        event = RecordedEvent(
            global_position=position.global_position,
            stream_name=found[STREAM_NAME].decode(),
            version=int(found[VERSION]),
            type=found[EVENT_TYPE].decode(),
            data=data,
            metadata=_metadata(headers),
            event_id=UUID(found[EVENT_ID].decode()),
            recorded_at=datetime.fromisoformat(found[RECORDED_AT].decode()).astimezone(UTC),
        )
        log_id = UUID(found[LOG_ID].decode())
    except KeyError as error:
        raise NotAnEnvelope(
            f"the record of {timestamp_ms} ms lacks the header {error}; only a Headwater relay may write to this topic"
        ) from None
    except (ValueError, TypeError, AttributeError) as error:
        raise NotAnEnvelope(f"the record of {timestamp_ms} ms has a header that cannot be read: {error}") from None
    if key != found[STREAM_NAME]:
        raise NotAnEnvelope(f"the record's key {key!r} is not its stream {event.stream_name!r}; its order cannot be trusted")
    if previous >= position:
        raise NotAnEnvelope(f"the record at {position} says that {previous} came before it")
    return Envelope(event=event, log_id=log_id, position=position, previous=previous)


def kind_of(headers: Sequence[Header]) -> tuple[str | None, bytes | None]:
    """Which type of event the record says it has, and which type of content; None where it says nothing that can be read."""
    found = dict(headers)
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


def _metadata(headers: Sequence[Header]) -> dict[str, str]:
    metadata: dict[str, str] = {}
    for name, value in headers:
        if name in _PLAIN_METADATA:
            metadata[name] = value.decode()
        elif name.startswith(METADATA_PREFIX):
            metadata[name.removeprefix(METADATA_PREFIX)] = value.decode()
    return metadata
