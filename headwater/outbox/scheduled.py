"""Messages for later: what they are, and where they wait."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final, NamedTuple, Protocol
from uuid import UUID

from headwater.errors import UsageError
from headwater.messages import EVENT_BYTES_MAX, Event, Metadata, NewEvent
from headwater.postgres import CallerConnection

DELIVER_AHEAD_MAX: Final = timedelta(days=3650)
"""How far ahead a message may be due, on the database's clock."""
SCHEDULED_BYTES_MAX: Final = EVENT_BYTES_MAX
"""The most a message for later may take, in bytes of JSON: as much as any event."""
SCHEDULED_LISTED_MAX: Final = 100_000
"""The most messages listed at once."""


class DueTime(NamedTuple):
    """When a message is due: at a moment, or so long after it was scheduled. One of the two is None."""

    at: datetime | None
    after: timedelta | None

    @classmethod
    def of(cls, deliver_at: datetime | None, deliver_after: timedelta | None) -> DueTime | None:
        """What the two arguments of `publish` mean; None for now.

        Raises:
            UsageError: they contradict each other, or cannot be meant.
        """
        if deliver_at is None and deliver_after is None:
            return None
        if deliver_at is not None and deliver_after is not None:
            raise UsageError("deliver_at and deliver_after both say when; give one of them")
        if deliver_at is not None:
            return cls(_checked_moment(deliver_at), None)
        return cls(None, _checked_delay(deliver_after))


def _checked_moment(moment: object) -> datetime:
    if not isinstance(moment, datetime):
        raise UsageError(f"deliver_at takes a moment, not {type(moment).__name__}: datetime(2030, 1, 1, 12, tzinfo=UTC)")
    if moment.tzinfo is None or moment.utcoffset() is None:
        raise UsageError(f"deliver_at={moment.isoformat()} does not say in which time zone; give it one: moment.replace(tzinfo=UTC)")
    return moment.astimezone(UTC)


def _checked_delay(delay: object) -> timedelta:
    if not isinstance(delay, timedelta):
        raise UsageError(f"deliver_after takes a timedelta, not {type(delay).__name__}: timedelta(seconds=30)")
    if delay < timedelta():
        raise UsageError(f"deliver_after={delay} lies in the past; a message can be due now, at the earliest")
    if delay > DELIVER_AHEAD_MAX:
        raise UsageError(f"deliver_after={delay} is too far ahead; a message may be due at most {DELIVER_AHEAD_MAX.days} days from now")
    return delay


@dataclass(frozen=True, slots=True)
class ScheduledMessage:
    """A message that waits for its moment. Keep its `message_id` to cancel it; the event has the same id when it is delivered."""

    message_id: UUID
    due_at: datetime
    """On the database's clock."""
    stream_name: str
    type: str
    data: str
    """JSON text, personal data sealed."""
    metadata: Metadata
    scheduled_at: datetime | None
    """None in the transaction that schedules it."""
    tags: tuple[str, ...] = ()
    attempts: int = 0
    """Deliveries that failed."""
    error: str | None = None
    """Of the last of them."""
    retry_at: datetime | None = None

    @property
    def event(self) -> NewEvent:
        """What is appended when it is due."""
        return NewEvent(self.type, self.data, event_id=self.message_id, metadata=self.metadata, tags=self.tags)


class Cancellation(StrEnum):
    """What became of an attempt to take a message back."""

    CANCELLED = "cancelled"
    """It was waiting, and is gone."""
    NOT_THERE = "not there"
    """It was cancelled before, or nothing of this id was ever scheduled. It will not be delivered."""
    DELIVERED = "delivered"
    """Too late: it is in the log."""

    @property
    def is_in_time(self) -> bool:
        """Whether the message is not delivered, and never will be."""
        return self is not Cancellation.DELIVERED


class ScheduledCounts(NamedTuple):
    """How many messages wait."""

    waiting: int
    overdue: int
    """Of those, past their moment."""
    failing: int
    """Of those, with a delivery that failed; each is tried again."""


class SealsEvents(Protocol):
    """What is used of `headwater.privacy.PersonalData`."""

    async def seal(self, events: Sequence[Event | NewEvent]) -> Sequence[Event | NewEvent]: ...


class ScheduledMessages(Protocol):
    """Where messages wait for their moment, on the clock of what keeps them. With `connection=`, each call joins that transaction."""

    async def schedule(
        self, stream_name: str, message: NewEvent, due: DueTime, *, connection: CallerConnection | None = None
    ) -> ScheduledMessage:
        """Keep a message, personal fields sealed.

        Raises:
            InvalidEvent, InvalidStreamName, UsageError: refused input; nothing was kept.
            SubjectForgotten: there is personal data of a forgotten subject.
            StorageUnavailable: outcome unknown; repeat with the same `NewEvent`.
        """
        ...

    async def cancel(self, message_id: UUID, *, connection: CallerConnection | None = None) -> Cancellation:
        """Take a message back; repeatable. Waits for a delivery of it that is under way.

        Raises:
            StorageUnavailable: outcome unknown; repeat.
        """
        ...

    async def claim(self, *, limit: int, connection: CallerConnection) -> Sequence[ScheduledMessage]:
        """Messages that are due, the longest due first, kept from everybody else to the end of the transaction.

        Of each stream the first ones, without a gap, and none of a stream that another transaction claimed from.
        """
        ...

    async def remove(self, message_ids: Sequence[UUID], *, connection: CallerConnection) -> None:
        """Forget messages that this transaction claimed and delivers."""
        ...

    async def delay(self, message_id: UUID, error: str, seconds: float) -> int | None:
        """Note that a delivery failed, and try again so much later; returns how often it failed. None when it is gone, or claimed."""
        ...

    async def seconds_to_next(self) -> float | None:
        """How long until one is due, or due to be tried again; zero or less when that is past, None when there is none."""
        ...
