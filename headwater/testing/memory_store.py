"""An event store that forgets when the test ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import NoReturn
from uuid import UUID

from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.errors import (
    ConditionFailed,
    DuplicateEvent,
    InvalidEvent,
    LogDiverged,
    StreamClosed,
    StreamNotFound,
    UsageError,
    WrongExpectedVersion,
)
from headwater.eventstore import (
    READ_BATCH_SIZE,
    SCAN_POSITIONS_MAX,
    AppendCondition,
    Checkpoint,
    ClosedStream,
    EventQuery,
    EventSelection,
    LogEpoch,
    LogIdentity,
    LogSlice,
    Matching,
    SelectedSlice,
    StreamAppend,
    expected_in_words,
    queries_of,
    several_parts,
    token_of,
)
from headwater.messages import EVENT_BYTES_MAX, AppendResult, Event, ExpectedVersion, NewEvent, RecordedEvent, check_stream_name
from headwater.postgres import CallerConnection
from headwater.randomness import SYSTEM_RANDOMNESS, Randomness
from headwater.testing.jsonb import as_jsonb


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
        self._tags: dict[UUID, tuple[str, ...]] = {}
        self._identity = LogIdentity(log_id=randomness.uuid7(), epochs=(LogEpoch(epoch=1, began_after=0),))
        self._closed: dict[str, ClosedStream] = {}
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
        stored = await self.append_to_streams([StreamAppend(stream_name, events, expected_version)], connection=connection)
        return stored[0]

    async def append_to_streams(
        self,
        appends: Sequence[StreamAppend],
        *,
        condition: AppendCondition | None = None,
        connection: CallerConnection | None = None,
    ) -> tuple[AppendResult, ...]:
        """Add events to the ends of several streams, all of them or none; see `EventStore.append_to_streams`."""
        if connection is not None:
            _refuse_connection()
        parts = [part._replace(events=[_as_stored(event) for event in part.events]) for part in several_parts(appends)]
        await self._clock.sleep(0)
        found = [self._stored_before(part.stream_name, part.events) for part in parts]
        if all(isinstance(one, AppendResult) for one in found):
            return tuple(one for one in found if isinstance(one, AppendResult))
        if (stored := next((one for one in found if one is not None), None)) is not None:
            event_id = (
                stored
                if isinstance(stored, UUID)
                else next(p for p, one in zip(parts, found, strict=True) if one is stored).events[0].event_id
            )
            raise DuplicateEvent(
                f"the event id {event_id} is stored already, but not by this very append; give new ids, or repeat the first append exactly",
                event_id=event_id,
            )
        if condition is not None:
            self._check_condition(condition)
        for part in parts:
            self._check_open(part.stream_name)
            _check_version(part.stream_name, part.expected, len(self._streams.get(part.stream_name, [])))
        results = tuple(self._store(part.stream_name, part.events) for part in parts)
        for listener in self._listeners:
            listener()
        return results

    async def read_matching(self, query: EventQuery | Sequence[EventQuery], *, connection: CallerConnection | None = None) -> Matching:
        """What a decision over several streams depends on; see `EventStore.read_matching`."""
        if connection is not None:
            _refuse_connection()
        queries = queries_of(query)
        await self._clock.sleep(0)
        events = tuple(event for event in self._log if self._is_found(event, queries))
        return Matching(events, token_of(len(self._log), events))

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

    async def find_event(self, event_id: UUID, *, connection: CallerConnection | None = None) -> RecordedEvent | None:
        """The event with this id, if one is stored; see `EventStore.find_event`."""
        if connection is not None:
            _refuse_connection()
        await self._clock.sleep(0)
        return self._by_id.get(event_id)

    async def close_stream(self, stream_name: str, *, connection: CallerConnection | None = None) -> ClosedStream:
        """Close a stream for good; see `EventStore.close_stream`."""
        if connection is not None:
            _refuse_connection()
        check_stream_name(stream_name)
        await self._clock.sleep(0)
        if (version := len(self._streams.get(stream_name, []))) == 0:
            raise StreamNotFound(f"there is no stream {stream_name!r} to close")
        return self._closed.setdefault(stream_name, ClosedStream(stream_name, version, self._clock.now()))

    async def read_log(self, *, after: int, limit: int = READ_BATCH_SIZE, horizon: int | None = None) -> LogSlice:
        """The next events of the whole log; see `EventStore.read_log`."""
        await self._clock.sleep(0)
        # Positions are counted from 1 without holes.
        start = max(after, 0)
        known = len(self._log) if horizon is None else horizon
        return LogSlice(events=tuple(self._log[start : min(start + max(limit, 0), known)]), horizon=known)

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

    def _check_open(self, stream_name: str) -> None:
        if (closed := self._closed.get(stream_name)) is not None:
            raise StreamClosed(
                f"stream {stream_name!r} was closed at {closed.closed_at} and takes no further events",
                stream_name=stream_name,
                closed_at=closed.closed_at,
            )

    def _stored_before(self, stream_name: str, prepared: Sequence[NewEvent]) -> AppendResult | UUID | None:
        """What this very append gave before; or an id that is stored in other company."""
        found = [self._by_id[event.event_id] for event in prepared if event.event_id in self._by_id]
        if not found:
            return None
        given = [(event.event_id, stream_name, found[0].version + ordinal) for ordinal, event in enumerate(prepared)]
        if given == [(event.event_id, event.stream_name, event.version) for event in found]:
            return AppendResult(stream_name=stream_name, version=found[-1].version, global_position=found[-1].global_position)
        return found[0].event_id

    def _is_found(self, event: RecordedEvent, queries: Sequence[EventQuery]) -> bool:
        return any(query.matches(event.type, self._tags[event.event_id]) for query in queries)

    def _check_condition(self, condition: AppendCondition) -> None:
        queries = queries_of(condition.query)
        for event in self._log[condition.token.horizon :]:
            if event.event_id not in condition.token.known_ids and self._is_found(event, queries):
                raise ConditionFailed(
                    f"the event {event.event_id} ({event.type}) came since the decision was read; nothing was stored: read again and decide again",
                    event_id=event.event_id,
                    global_position=event.global_position,
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
            self._tags[event.event_id] = event.tags
        return AppendResult(stream_name=stream_name, version=len(stream), global_position=len(self._log))


def _as_stored(event: NewEvent) -> NewEvent:
    data = as_jsonb(event.data)
    if (size := len(data.encode())) > EVENT_BYTES_MAX:
        raise InvalidEvent(
            f"{event.type} takes {size:,} bytes as JSON; at most {EVENT_BYTES_MAX:,} are allowed: store large content elsewhere"
        )
    return replace(event, data=data)


def _check_version(stream_name: str, expected: int | None, version: int) -> None:
    if expected is None or expected == version or (expected == -1 and version > 0):
        return
    raise WrongExpectedVersion(stream_name=stream_name, expected=expected_in_words(expected), actual_version=version)


def _refuse_connection() -> NoReturn:
    raise UsageError("the memory store has no transactions, so connection= cannot join one; leave it out, or test on PostgreSQL")
