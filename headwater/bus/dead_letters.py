"""Messages whose handler kept failing, with their error; kept until somebody decides."""

from __future__ import annotations

import base64
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from headwater.bus.failing import Failure
from headwater.bus.values import SourceRecord
from headwater.kafka import Envelope, Partition, kind_of
from headwater.messages import Event, LogPosition

ERROR_CHARACTERS_MAX: Final = 4_000
TRACEBACK_CHARACTERS_MAX: Final = 16_000


@dataclass(frozen=True, slots=True)
class ErrorFacts:
    """An error as it is stored, and when it was seen."""

    error_type: str
    error_message: str
    traceback: str
    first_failed_at: datetime
    last_failed_at: datetime

    @classmethod
    def of(cls, failure: Failure) -> ErrorFacts:
        """What is kept of a failure."""
        facts = error_facts(failure.error)
        return cls(**facts, first_failed_at=failure.first_failed_at, last_failed_at=failure.last_failed_at)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One message that one handler could not handle, or a record that nobody could read."""

    group: str
    handler_name: str | None
    """None for a record that could not be read."""
    partition: Partition
    offset: int
    error_type: str
    error_message: str
    traceback: str
    attempts: int
    first_failed_at: datetime
    last_failed_at: datetime
    event_id: UUID | None = None
    log_id: UUID | None = None
    position: LogPosition | None = None
    stream_name: str | None = None
    version: int | None = None
    event_type: str | None = None
    data: str | None = None
    """The event's JSON text; None where the value could not be read."""
    metadata: Mapping[str, str] | None = None
    recorded_at: datetime | None = None
    raw: Mapping[str, Any] | None = None
    """Key, value, headers (base64) and timestamp of a record that could not be read whole."""
    dead_letter_id: int | None = None
    """Given when it is stored."""
    is_skipped: bool = False
    """Whether it is settled already: somebody decided to skip it while it was parked."""


class MessageDeadLettered(Event, category="deadletter"):
    """A handler gave up on a message: a copy of what `headwater dead-letters show` tells, for whoever subscribes. Personal data stays sealed.

    A subclass has a topic of its own: `class OrderTrouble(MessageDeadLettered, category="ordertrouble")`.
    """

    group: str
    handler: str | None
    """None for a record that could not be read."""
    topic: str
    partition: int
    offset: int
    error_type: str
    error_message: str
    attempts: int
    first_failed_at: datetime
    last_failed_at: datetime
    event_id: UUID | None = None
    message_type: str | None = None
    stream_name: str | None = None
    version: int | None = None
    data: str | None = None
    """The event's JSON; None where it could not be read, or is larger than a quarter of what an event may hold."""


def unhandled(
    group: str,
    handler_name: str,
    partition: Partition,
    record: SourceRecord,
    envelope: Envelope,
    attempts: int,
    error: ErrorFacts,
    *,
    is_skipped: bool = False,
) -> DeadLetter:
    """The letter for a handler that gave up."""
    event = envelope.event
    # Nothing where the value could not be read: JSON is never empty.
    is_storable = bool(event.data) and "\x00" not in event.data
    return DeadLetter(
        group=group,
        handler_name=handler_name,
        partition=partition,
        offset=record.offset,
        error_type=error.error_type,
        error_message=error.error_message,
        traceback=error.traceback,
        attempts=attempts,
        first_failed_at=error.first_failed_at,
        last_failed_at=error.last_failed_at,
        event_id=event.event_id,
        log_id=envelope.log_id,
        position=envelope.position,
        stream_name=storable(event.stream_name),
        version=event.version,
        event_type=storable(event.type),
        data=event.data if is_storable else None,
        metadata={storable(name): storable(value) for name, value in event.metadata.items()},
        recorded_at=event.recorded_at,
        raw=None if is_storable else raw_record(record),
        is_skipped=is_skipped,
    )


def unreadable(group: str, partition: Partition, record: SourceRecord, error: BaseException, now: datetime) -> DeadLetter:
    """The letter for a record that is no envelope."""
    return DeadLetter(
        group=group,
        handler_name=None,
        partition=partition,
        offset=record.offset,
        **error_facts(error),
        attempts=1,
        first_failed_at=now,
        last_failed_at=now,
        raw=raw_record(record),
    )


def raw_record(record: SourceRecord) -> dict[str, Any]:
    """The record's bytes in base64, fit for JSON."""
    return {
        "key": _base64(record.key),
        "value": _base64(record.value),
        "headers": [[storable(name), _base64(value)] for name, value in record.headers],
        "timestamp": record.timestamp,
    }


def raw_value(letter: DeadLetter) -> bytes | None:
    """The value of the letter's raw record, as it came."""
    return None if letter.raw is None or letter.raw["value"] is None else base64.b64decode(letter.raw["value"])


def raw_content_type(letter: DeadLetter) -> bytes | None:
    """What the letter's raw record says its value is."""
    headers: Sequence[tuple[str, str | None]] = () if letter.raw is None else letter.raw["headers"]
    return kind_of([(name, base64.b64decode(content)) for name, content in headers if content is not None])[1]


def error_facts(error: BaseException) -> dict[str, Any]:
    """Type, message and traceback of an error, fit to be stored."""
    lines: Sequence[str] = traceback.format_exception(error)
    return {
        "error_type": f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins."),
        "error_message": message_of(error),
        # The end says what happened.
        "traceback": storable("".join(lines))[-TRACEBACK_CHARACTERS_MAX:],
    }


def message_of(error: BaseException) -> str:
    """What the error says, cut to a length that can be kept."""
    try:
        return storable(str(error))[:ERROR_CHARACTERS_MAX]
    except Exception:  # noqa: BLE001 - somebody's __str__ must not keep a dead letter from being stored
        return "(the error has no readable message)"


def storable(text: str) -> str:
    """The text without what PostgreSQL cannot store: a letter must never be refused."""
    if text.isascii() and "\x00" not in text:
        return text
    return text.replace("\x00", "\\0").encode("utf-8", "backslashreplace").decode()


def _base64(content: bytes | None) -> str | None:
    return None if content is None else base64.b64encode(content).decode()
