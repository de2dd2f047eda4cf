"""What an event store is, whichever database stands behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol
from uuid import UUID

from headwater.errors import UsageError
from headwater.eventstore.conditions import AppendCondition, EventQuery, Matching
from headwater.eventstore.selection import EventSelection
from headwater.messages import ANY, STREAM_EXISTS, AppendResult, Event, ExpectedVersion, LogPosition, NewEvent, RecordedEvent
from headwater.postgres import CallerConnection

READ_BATCH_SIZE: Final = 1_000
"""Events fetched at once when reading a stream or the log."""
SCAN_POSITIONS_MAX: Final = 10_000
"""Positions of the log that one read looks at for the events of a selection."""
VERSION_MAX: Final = 2**63 - 1
"""The highest version a stream could have."""


@dataclass(frozen=True, slots=True)
class LogEpoch:
    """One life of the log; positions above `began_after` belong to it, until a later one begins."""

    epoch: int
    began_after: int


@dataclass(frozen=True, slots=True)
class LogIdentity:
    """Which log this is, and the lives it had."""

    log_id: UUID
    epochs: tuple[LogEpoch, ...]

    @property
    def epoch(self) -> int:
        return self.epochs[-1].epoch

    def locate(self, global_position: int) -> LogPosition:
        """The place of an event at this position, with the life in which it was stored."""
        epoch = next((e.epoch for e in reversed(self.epochs) if global_position > e.began_after), self.epochs[0].epoch)
        return LogPosition(epoch, global_position)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a reader got: the last event it read, by epoch, position and id. The start is (1, 0, None)."""

    epoch: int = 1
    global_position: int = 0
    event_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class LogSlice:
    """Consecutive events of the log, and how far it could be read at that moment."""

    events: tuple[RecordedEvent, ...]
    horizon: int


@dataclass(frozen=True, slots=True)
class StreamAppend:
    """What one stream gets in an append to several."""

    stream_name: str
    events: Sequence[Event | NewEvent]
    expected_version: ExpectedVersion


@dataclass(frozen=True, slots=True)
class ClosedStream:
    """A stream that takes no further events."""

    stream_name: str
    version: int
    """Of its last event, for good."""
    closed_at: datetime


@dataclass(frozen=True, slots=True)
class SelectedSlice:
    """What a selection finds in a stretch of the log, and where that stretch ends."""

    events: tuple[RecordedEvent, ...]
    """Those that the selection wants, in order."""
    last_read: tuple[int, UUID] | None
    """Position and id of the last event looked at, wanted or not: go on behind it. None where there was none."""
    horizon: int
    is_whole: bool
    """Whether everything up to the horizon was looked at."""


class EventStore(Protocol):
    """An append-only log of events in streams."""

    async def append(
        self,
        stream_name: str,
        events: Sequence[Event | NewEvent],
        *,
        expected_version: ExpectedVersion,
        connection: CallerConnection | None = None,
    ) -> AppendResult:
        """Add events to the end of one stream, all of them or none.

        Joins the caller's transaction when given its connection; otherwise commits before it returns. If that commit is cut off, nobody knows
        whether the events were stored: repeating the append with the same `NewEvent`s stores nothing twice and returns the first result.

        Args:
            stream_name: `category-id`; the category names the Kafka topic.
            events: 1 to 1,000, kept in this order, each at most 1 MiB as JSON.
            expected_version: number of events the caller saw, or `ANY`, `NO_STREAM`, `STREAM_EXISTS`.
            connection: asyncpg's, or SQLAlchemy's `AsyncSession` or `AsyncConnection` on asyncpg, with an open transaction.
        Returns:
            Version and position of the last event.
        Raises:
            WrongExpectedVersion: someone else was first; load again and decide again.
            DuplicateEvent: an event id is stored already, but not by this very append.
            AppendBlocked: another open transaction holds the stream for too long; nothing was stored, and the message names it.
            StreamClosed: the stream takes no further events.
            InvalidEvent, InvalidStreamName, UsageError: refused input; nothing was stored.
            StorageUnavailable: outcome unknown; repeat with the same event ids.
        Source: docs/decisions/0003-the-log.md
        """
        ...

    async def append_to_streams(
        self,
        appends: Sequence[StreamAppend],
        *,
        condition: AppendCondition | None = None,
        connection: CallerConnection | None = None,
    ) -> tuple[AppendResult, ...]:
        """Add events to the ends of several streams, all of them or none, each with its own expectation; the rest as `append`.

        Args:
            appends: 1 to 100, each stream once, with 1,000 events together at most; positions follow this order.
            condition: store nothing if another event that its query finds came since `read_matching` gave its token.
        Returns:
            One result for each stream, in this order.
        Raises:
            ConditionFailed: another event that the decision depends on came; read again and decide again.
            WrongExpectedVersion, DuplicateEvent, InvalidEvent, InvalidStreamName, UsageError, StorageUnavailable: as `append`.
        Source: docs/decisions/0009-group-append.md
        """
        ...

    async def read_matching(self, query: EventQuery | Sequence[EventQuery], *, connection: CallerConnection | None = None) -> Matching:
        """What a decision over several streams depends on: the events that any of the queries finds, in order, and the token for its append.

        Reads all committed events, above the horizon as well. A query with tags uses their index; one without reads the whole log.
        """
        ...

    def read_stream(
        self,
        stream_name: str,
        *,
        from_version: int | None = None,
        backwards: bool = False,
        limit: int | None = None,
        connection: CallerConnection | None = None,
    ) -> AsyncIterator[RecordedEvent]:
        """The stream's events in order of version; nothing when it does not exist.

        Args:
            from_version: the first version to come (inclusive, counted from 1); by default the first, or the last when backwards.
            backwards: newest first.
            limit: at most this many.
            connection: read inside this transaction, seeing its own appends.
        """
        ...

    async def stream_version(self, stream_name: str, *, connection: CallerConnection | None = None) -> int:
        """How many events the stream has; 0 when it does not exist."""
        ...

    async def find_event(self, event_id: UUID, *, connection: CallerConnection | None = None) -> RecordedEvent | None:
        """The event with this id, if one is stored; with a connection, what its transaction sees."""
        ...

    async def close_stream(self, stream_name: str, *, connection: CallerConnection | None = None) -> ClosedStream:
        """Close a stream for good: whatever it holds stays readable, and every further append raises `StreamClosed`.

        Waits for appends to the stream that are in flight. Closing again changes nothing and answers with the first moment; repeating an append
        that was stored before still returns its first result.

        Args:
            connection: close together with the caller's transaction, or not at all.
        Raises:
            StreamNotFound: there is no such stream.
        Source: docs/decisions/0013-growing-old.md
        """
        ...

    async def read_log(self, *, after: int, limit: int = READ_BATCH_SIZE, horizon: int | None = None) -> LogSlice:
        """The next events of the whole log after a position, up to the horizon, in order; each committed event comes once.

        Move on to the position of the last event returned, never to the horizon itself.

        Args:
            horizon: one that was read before, which spares a round trip; what lies above it is not returned. Only in the same life of the log: compare
                `identity` before and after. By default as it is now.
        Raises:
            HorizonUnavailable: on a standby, or outside READ COMMITTED.
        """
        ...

    async def read_selected(self, selection: EventSelection, *, after: int, limit: int = READ_BATCH_SIZE) -> SelectedSlice:
        """The next events that a selection wants, up to the horizon, in order; looks at `SCAN_POSITIONS_MAX` positions at most.

        So a rare kind of event is looked for where the log is, a bounded stretch at a time; move on to `last_read`, also when no event was found.

        Raises:
            HorizonUnavailable: on a standby, or outside READ COMMITTED.
        """
        ...

    async def last_checkpoint(self) -> Checkpoint:
        """The checkpoint of a reader that has read everything there is to read now."""
        ...

    async def horizon(self) -> int:
        """How far the log may be read now: every event at or below is stored for good, or never will be."""
        ...

    async def identity(self) -> LogIdentity:
        """Which log this is, and its epochs."""
        ...

    async def verify_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Make sure that the log still holds what this reader read last.

        Raises:
            LogDiverged: it does not: the log lost its tail.
        """
        ...


def expected_number(expected: ExpectedVersion) -> int | None:
    """The append function's way to say it: None for any, -1 for an existing stream, else the number of events."""
    if expected is ANY:
        return None
    if expected is STREAM_EXISTS:
        return -1
    number: object = expected  # callers without a type checker give anything
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= VERSION_MAX:  # pyright: ignore[reportUnnecessaryIsInstance] - see above
        raise UsageError(f"expected_version={expected!r}: give the number of events you saw (0 or more), ANY, NO_STREAM or STREAM_EXISTS")
    return number


_EXPECTED_IN_WORDS: Final = {-1: "an existing stream", 0: "no stream"}


def expected_in_words(expected: int | None) -> str:
    """What the append function's number means, for errors."""
    return "any version" if expected is None else _EXPECTED_IN_WORDS.get(expected, f"version {expected}")
