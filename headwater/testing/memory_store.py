"""An event store that forgets when the test ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final, NoReturn
from uuid import UUID

from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.errors import DuplicateEvent, InvalidEvent, LogDiverged, UsageError, WrongExpectedVersion
from headwater.eventstore import (
    READ_BATCH_SIZE,
    SCAN_POSITIONS_MAX,
    Checkpoint,
    EventSelection,
    LogEpoch,
    LogIdentity,
    LogSlice,
    SelectedSlice,
    expected_number,
)
from headwater.messages import EVENT_BYTES_MAX, AppendResult, Event, ExpectedVersion, NewEvent, RecordedEvent, check_stream_name, prepare
from headwater.postgres import CallerConnection
from headwater.randomness import SYSTEM_RANDOMNESS, Randomness
from headwater.testing.jsonb import as_jsonb

_EXPECTED_IN_WORDS: Final = {-1: "an existing stream", 0: "no stream"}


class MemoryEventStore:
    """An `EventStore` in memory: the same limits, versions, idempotency and errors as the one on PostgreSQL, and no transactions.

    Appends take effect at once, so the horizon is the last position. Every call lets other tasks run first, so that two deciders on one
    stream meet here as they do there.
    """

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK, randomness: Randomness = SYSTEM_RANDOMNESS) -> None:
        """Begin an empty log; `clock` says when events were recorded, `randomness` which log it is."""
        self._clock = clock
        self._log: list[RecordedEvent] = []
        self._streams: dict[str, list[RecordedEvent]] = {}
        self._by_id: dict[UUID, RecordedEvent] = {}
        self._identity = LogIdentity(log_id=randomness.uuid7(), epochs=(LogEpoch(epoch=1, began_after=0),))
        self._listeners: list[Callable[[], object]] = []

    async def append(
        self,
        stream_name: str,
        events: Sequence[Event | NewEvent],
        *,
        expected_version: ExpectedVersion,
        connection: CallerConnection | None = None,
    ) -> AppendResult:
        """Add events to the end of one stream, all of them or none; see `EventStore.append`."""
        if connection is not None:
            _refuse_connection()
        expected = expected_number(expected_version)
        prepared = [_as_stored(event) for event in prepare(events, stream_name=stream_name)]
        await self._clock.sleep(0)
        if (first_result := self._stored_before(stream_name, prepared)) is not None:
            return first_result
        stream = self._streams.get(stream_name, [])
        _check_version(stream_name, expected, len(stream))
        return self._store(stream_name, prepared)

    async def read_stream(
        self,
        stream_name: str,
        *,
        from_version: int | None = None,
        backwards: bool = False,
        limit: int | None = None,
        connection: CallerConnection | None = None,
    ) -> AsyncIterator[RecordedEvent]:
        """The stream's events in order of version; see `EventStore.read_stream`."""
        if connection is not None:
            _refuse_connection()
        check_stream_name(stream_name)
        await self._clock.sleep(0)
        stream = self._streams.get(stream_name, [])
        if backwards:
            last = len(stream) if from_version is None else max(from_version, 0)
            chosen = stream[:last][::-1]
        else:
            first = 1 if from_version is None else max(from_version, 1)
            chosen = stream[first - 1 :]
        for event in chosen[: len(chosen) if limit is None else max(limit, 0)]:
            yield event

    async def stream_version(self, stream_name: str, *, connection: CallerConnection | None = None) -> int:
        """How many events the stream has; 0 when it does not exist."""
        if connection is not None:
            _refuse_connection()
        check_stream_name(stream_name)
        await self._clock.sleep(0)
        return len(self._streams.get(stream_name, []))

    async def read_log(self, *, after: int, limit: int = READ_BATCH_SIZE) -> LogSlice:
        """The next events of the whole log; see `EventStore.read_log`."""
        await self._clock.sleep(0)
        # Positions are counted from 1 without holes.
        start = max(after, 0)
        return LogSlice(events=tuple(self._log[start : start + max(limit, 0)]), horizon=len(self._log))

    async def read_selected(self, selection: EventSelection, *, after: int, limit: int = READ_BATCH_SIZE) -> SelectedSlice:
        """The next events that a selection wants; see `EventStore.read_selected`."""
        await self._clock.sleep(0)
        scanned = self._log[max(after, 0) : max(after, 0) + SCAN_POSITIONS_MAX]
        found = [event for event in scanned if selection.matches(event)][:limit]
        read = scanned if len(found) < limit else found
        last_read = (read[-1].global_position, read[-1].event_id) if read else None
        is_whole = len(found) < limit and (not scanned or scanned[-1] is self._log[-1])
        return SelectedSlice(events=tuple(found), last_read=last_read, horizon=len(self._log), is_whole=is_whole)

    async def last_checkpoint(self) -> Checkpoint:
        """The checkpoint of the log's last event."""
        await self._clock.sleep(0)
        return Checkpoint(1, len(self._log), self._log[-1].event_id) if self._log else Checkpoint()

    async def horizon(self) -> int:
        """The last position."""
        await self._clock.sleep(0)
        return len(self._log)

    async def identity(self) -> LogIdentity:
        """Which log this is; it has one epoch."""
        await self._clock.sleep(0)
        return self._identity

    async def verify_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Make sure that the checkpoint belongs to this log; see `EventStore.verify_checkpoint`."""
        await self._clock.sleep(0)
        position = checkpoint.global_position
        if position and not (1 <= position <= len(self._log) and self._log[position - 1].event_id == checkpoint.event_id):
            raise LogDiverged(f"the event {checkpoint.event_id} that was read at position {position} is not in this log")

    def on_append(self, listener: Callable[[], object]) -> None:
        """Call this after every append that stored something: the doorbell of relays and readers."""
        self._listeners.append(listener)

    @property
    def events(self) -> tuple[RecordedEvent, ...]:
        """The whole log, for assertions."""
        return tuple(self._log)

    def _stored_before(self, stream_name: str, prepared: Sequence[NewEvent]) -> AppendResult | None:
        found = [self._by_id[event.event_id] for event in prepared if event.event_id in self._by_id]
        if not found:
            _refuse_repeated_ids(prepared)
            return None
        given = [(event.event_id, stream_name, found[0].version + ordinal) for ordinal, event in enumerate(prepared)]
        if given == [(event.event_id, event.stream_name, event.version) for event in found]:
            return AppendResult(stream_name=stream_name, version=found[-1].version, global_position=found[-1].global_position)
        event_id = found[0].event_id
        raise DuplicateEvent(
            f"the event id {event_id} is stored already, but not by this very append; give new ids, or repeat the first append exactly",
            event_id=event_id,
        )

    def _store(self, stream_name: str, prepared: Sequence[NewEvent]) -> AppendResult:
        stream = self._streams.setdefault(stream_name, [])
        for event in prepared:
            recorded = RecordedEvent(
                global_position=len(self._log) + 1,
                stream_name=stream_name,
                version=len(stream) + 1,
                type=event.type,
                data=event.data,
                metadata=dict(event.metadata),
                event_id=event.event_id,
                recorded_at=self._clock.now(),
            )
            self._log.append(recorded)
            stream.append(recorded)
            self._by_id[event.event_id] = recorded
        for listener in self._listeners:
            listener()
        return AppendResult(stream_name=stream_name, version=len(stream), global_position=len(self._log))


def _as_stored(event: NewEvent) -> NewEvent:
    data = as_jsonb(event.data)
    if (size := len(data.encode())) > EVENT_BYTES_MAX:
        raise InvalidEvent(
            f"{event.type} takes {size:,} bytes as JSON; at most {EVENT_BYTES_MAX:,} are allowed: store large content elsewhere"
        )
    return NewEvent(type=event.type, data=data, category=event.category, event_id=event.event_id, metadata=event.metadata)


def _check_version(stream_name: str, expected: int | None, version: int) -> None:
    if expected is None or expected == version or (expected == -1 and version > 0):
        return
    raise WrongExpectedVersion(
        stream_name=stream_name, expected=_EXPECTED_IN_WORDS.get(expected, f"version {expected}"), actual_version=version
    )


def _refuse_repeated_ids(prepared: Sequence[NewEvent]) -> None:
    seen: set[UUID] = set()
    for event in prepared:
        if event.event_id in seen:
            raise DuplicateEvent(f"the event id {event.event_id} stands twice in this append; give each its own", event_id=event.event_id)
        seen.add(event.event_id)


def _refuse_connection() -> NoReturn:
    raise UsageError("the memory store has no transactions, so connection= cannot join one; leave it out, or test on PostgreSQL")
