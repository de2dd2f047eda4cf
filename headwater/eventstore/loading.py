"""From a stream to its state, by the shortest way that can be trusted: the cache, a snapshot, or the whole stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final, Generic, TypeVar

from headwater.eventstore.cache import Folded, StreamCache
from headwater.eventstore.decider import Decider
from headwater.eventstore.snapshots import Snapshot, SnapshotStore
from headwater.eventstore.store import VERSION_MAX, EventStore
from headwater.messages import EventRegistry, RecordedEvent
from headwater.postgres import CallerConnection, driver_connection
from headwater.telemetry import logger

SNAPSHOT_SECONDS_MAX: Final = 1.0
"""How long writing or dropping a snapshot may hold up a decision; then it is left."""

_log = logger("eventstore")
State = TypeVar("State")


class StreamLoader(Generic[State]):
    """Folds one stream for one decider.

    With a caller's connection it reads inside that transaction: what is found there is not put into the cache, for it may never be committed, and
    a snapshot is written into the same transaction, to be there only if its events are.
    """

    def __init__(
        self,
        store: EventStore,
        registry: EventRegistry,
        decider: Decider[Any, State],
        stream_name: str,
        *,
        connection: CallerConnection | None,
        snapshots: SnapshotStore | None,
        cache: StreamCache | None,
    ) -> None:
        self._store, self._registry, self._decider, self._stream_name = store, registry, decider, stream_name
        self._connection, self._cache = connection, cache
        self._snapshots = snapshots if decider.codec is not None else None

    async def load(self, *, up_to: int = VERSION_MAX) -> Folded[State]:
        """The state at the stream's end, or after the event of a version.

        Raises:
            UnknownEventType, InvalidEvent: an event of the stream fits no class.
        """
        folded = await self._load_from_cache(up_to) or await self._load_from_snapshot(up_to)
        if folded is None:
            folded = await self._fold(Folded(self._decider.initial_state), up_to)
            assert folded is not None, "every stream begins at its beginning"
        if self._cache is not None and self._connection is None and folded.version:
            self._cache.put(self._stream_name, self._decider, folded)
        return folded

    async def keep_snapshot(self, folded: Folded[State]) -> None:
        """Write a snapshot of what was loaded, if it is time for one. Never fails: without it the next load takes longer."""
        codec = self._decider.codec
        if self._snapshots is None or codec is None or folded.version - folded.snapshot_version < codec.every:
            return
        assert folded.event_id is not None, "a stream with events was folded"
        if self._cache is not None:
            self._cache.note_snapshot(self._stream_name, self._decider, folded.version)
        async with self._as_far_as_possible("snapshot_not_saved"):
            snapshot = Snapshot(
                self._stream_name, codec.decider_name, folded.version, folded.event_id, codec.shape, codec.encode(folded.state)
            )
            async with self._savepoint():
                await self._snapshots.save(snapshot, connection=self._connection)

    async def _load_from_cache(self, up_to: int) -> Folded[State] | None:
        cached = self._cache.get(self._stream_name, self._decider) if self._cache is not None else None
        if self._cache is None or cached is None or cached.version > up_to:
            return None
        if (folded := await self._fold(cached, up_to)) is None and self._connection is None:
            # A caller's transaction may be too old to see the event; the log itself is not.
            self._cache.drop(self._stream_name, self._decider)
        return folded

    async def _load_from_snapshot(self, up_to: int) -> Folded[State] | None:
        codec = self._decider.codec
        if self._snapshots is None or codec is None:
            return None
        snapshot = await self._snapshots.load(self._stream_name, codec.decider_name, connection=self._connection)
        if snapshot is None or (snapshot.version > up_to and snapshot.shape == codec.shape):
            return None
        if snapshot.shape != codec.shape:
            await self._drop(snapshot, "shape_changed")
            return None
        try:
            state = codec.decode(snapshot.state)
        except Exception:  # noqa: BLE001 - validators are users' code, and whatever they say, the stream says it better
            await self._drop(snapshot, "not_readable")
            return None
        start = Folded(state, snapshot.version, snapshot.event_id, snapshot_version=snapshot.version)
        if (folded := await self._fold(start, up_to)) is None:
            await self._drop(snapshot, "not_in_stream")
        return folded

    async def _fold(self, start: Folded[State], up_to: int) -> Folded[State] | None:
        """Go on from a place in the stream; None if the stream does not have the event there."""
        state, version, event_id = start.state, start.version, start.event_id
        # The event at the start is read again: its id proves that this is still the same stream, not one that lost its tail and grew another.
        events = self._store.read_stream(
            self._stream_name,
            from_version=max(start.version, 1),
            limit=up_to - start.version + (1 if start.version else 0),
            connection=self._connection,
        )
        if start.version and not await _begins_with(events, start):
            return None
        async for recorded in events:
            state = self._decider.evolve(state, self._registry.decode(recorded))
            version, event_id = recorded.version, recorded.event_id
        return replace(start, state=state, version=version, event_id=event_id)

    async def _drop(self, snapshot: Snapshot, reason: str) -> None:
        assert self._snapshots is not None, "a snapshot came from somewhere"
        _log.info("snapshot_dropped", stream_name=self._stream_name, decider=snapshot.decider_name, version=snapshot.version, reason=reason)
        async with self._as_far_as_possible("snapshot_not_dropped"), self._savepoint():
            await self._snapshots.drop(snapshot, connection=self._connection)

    @asynccontextmanager
    async def _as_far_as_possible(self, fact: str) -> AsyncGenerator[None]:
        try:
            async with asyncio.timeout(SNAPSHOT_SECONDS_MAX):
                yield
        except Exception as error:  # noqa: BLE001 - whatever it is, what was decided stands
            # Only errors of ours are known to hold nothing of the state.
            reason = str(error) if type(error) is ValueError else ""
            _log.warning(fact, stream_name=self._stream_name, decider=self._decider.name, error=type(error).__name__, reason=reason)

    @asynccontextmanager
    async def _savepoint(self) -> AsyncGenerator[None]:
        """Keep a failed statement from ending the caller's transaction."""
        if self._connection is None:
            yield
            return
        driver = await driver_connection(self._connection)
        async with driver.transaction():
            yield


async def _begins_with(events: AsyncIterator[RecordedEvent], start: Folded[Any]) -> bool:
    first = await anext(events, None)
    if first is not None and (first.version, first.event_id) == (start.version, start.event_id):
        return True
    if isinstance(events, AsyncGenerator):
        await events.aclose()
    return False
