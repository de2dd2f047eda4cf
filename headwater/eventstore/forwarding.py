"""An event store in front of another one, for what does a few things otherwise."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from uuid import UUID

from headwater.eventstore.conditions import AppendCondition, EventQuery, Matching
from headwater.eventstore.selection import EventSelection
from headwater.eventstore.store import (
    READ_BATCH_SIZE,
    Checkpoint,
    ClosedStream,
    EventStore,
    LogIdentity,
    LogSlice,
    SelectedSlice,
    StreamAppend,
)
from headwater.messages import AppendResult, Event, ExpectedVersion, NewEvent, RecordedEvent
from headwater.postgres import CallerConnection


class ForwardingEventStore:
    """Passes every call on; each is as `EventStore` says."""

    def __init__(self, store: EventStore) -> None:
        self._store = store

    async def append(
        self,
        stream_name: str,
        events: Sequence[Event | NewEvent],
        *,
        expected_version: ExpectedVersion,
        connection: CallerConnection | None = None,
    ) -> AppendResult:
        """Add events to the end of one stream, all of them or none; see `EventStore.append`."""
        return await self._store.append(stream_name, events, expected_version=expected_version, connection=connection)

    async def append_to_streams(
        self,
        appends: Sequence[StreamAppend],
        *,
        condition: AppendCondition | None = None,
        connection: CallerConnection | None = None,
    ) -> tuple[AppendResult, ...]:
        """Add events to the ends of several streams, all of them or none; see `EventStore.append_to_streams`."""
        return await self._store.append_to_streams(appends, condition=condition, connection=connection)

    async def read_matching(self, query: EventQuery | Sequence[EventQuery], *, connection: CallerConnection | None = None) -> Matching:
        """What a decision over several streams depends on; see `EventStore.read_matching`."""
        return await self._store.read_matching(query, connection=connection)

    def read_stream(
        self,
        stream_name: str,
        *,
        from_version: int | None = None,
        backwards: bool = False,
        limit: int | None = None,
        connection: CallerConnection | None = None,
    ) -> AsyncIterator[RecordedEvent]:
        """The stream's events in order of version; see `EventStore.read_stream`."""
        return self._store.read_stream(stream_name, from_version=from_version, backwards=backwards, limit=limit, connection=connection)

    async def stream_version(self, stream_name: str, *, connection: CallerConnection | None = None) -> int:
        """How many events the stream has; 0 when it does not exist."""
        return await self._store.stream_version(stream_name, connection=connection)

    async def find_event(self, event_id: UUID, *, connection: CallerConnection | None = None) -> RecordedEvent | None:
        """The event with this id, if one is stored; see `EventStore.find_event`."""
        return await self._store.find_event(event_id, connection=connection)

    async def close_stream(self, stream_name: str, *, connection: CallerConnection | None = None) -> ClosedStream:
        """Close a stream for good; see `EventStore.close_stream`."""
        return await self._store.close_stream(stream_name, connection=connection)

    async def read_log(self, *, after: int, limit: int = READ_BATCH_SIZE, horizon: int | None = None) -> LogSlice:
        """The next events of the whole log, up to the horizon; see `EventStore.read_log`."""
        return await self._store.read_log(after=after, limit=limit, horizon=horizon)

    async def read_selected(self, selection: EventSelection, *, after: int, limit: int = READ_BATCH_SIZE) -> SelectedSlice:
        """The next events that a selection wants, up to the horizon; see `EventStore.read_selected`."""
        return await self._store.read_selected(selection, after=after, limit=limit)

    async def last_checkpoint(self) -> Checkpoint:
        """The checkpoint of a reader that has read everything; see `EventStore.last_checkpoint`."""
        return await self._store.last_checkpoint()

    async def horizon(self) -> int:
        """How far the log may be read now."""
        return await self._store.horizon()

    async def identity(self) -> LogIdentity:
        """Which log this is, and its epochs."""
        return await self._store.identity()

    async def verify_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Make sure that the log still holds what this reader read last; see `EventStore.verify_checkpoint`."""
        await self._store.verify_checkpoint(checkpoint)
