"""From a stream to its state, by the shortest way that can be trusted: the cache, a snapshot, or the whole stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any, Final, Generic, TypeVar

from headwater.errors import ConfigurationError, InvalidEvent, StorageError, SubjectForgotten, UsageError
from headwater.eventstore.cache import Folded, StreamCache
from headwater.eventstore.decider import Decider
from headwater.eventstore.snapshots import Snapshot, SnapshotStore, StateCodec
from headwater.eventstore.store import VERSION_MAX, EventStore
from headwater.messages import EventRegistry, RecordedEvent
from headwater.postgres import CallerConnection, driver_connection
from headwater.privacy import OpenedState, SealsStates
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
        personal: SealsStates | None,
    ) -> None:
        self._store, self._registry, self._decider, self._stream_name = store, registry, decider, stream_name
        self._connection, self._cache, self._personal = connection, cache, personal
        self._snapshots = snapshots if decider.codec is not None else None
        if self._snapshots is not None and personal is None and decider.codec is not None and decider.codec.personal_class is not None:
            raise UsageError(
                f"states of the decider {decider.name!r} have personal fields, which its snapshots would hold unencrypted; say what seals them: "
                "decide(..., personal=personal_data), or decide with service.decide"
            )

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
        if folded.keys_asked_at is not None and codec.may_hold_unmarked:
            self._tell_refusal(codec)
            return
        assert folded.event_id is not None, "a stream with events was folded"
        if self._cache is not None:
            self._cache.note_snapshot(self._stream_name, self._decider, folded.version)
        # What another process forgot a moment ago is not to be kept.
        async with self._as_far_as_possible("snapshot_not_saved"):
            with suppress(SubjectForgotten):
                text = await self._sealed(codec, codec.encode(folded.state))
                snapshot = Snapshot(self._stream_name, codec.decider_name, folded.version, folded.event_id, codec.shape, text)
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
        start = await self._start_at(snapshot, codec)
        if isinstance(start, str):
            await self._drop(snapshot, start)
            return None
        if (folded := await self._fold(start, up_to)) is None:
            await self._drop(snapshot, "not_in_stream")
        return folded

    async def _start_at(self, snapshot: Snapshot, codec: StateCodec[State]) -> Folded[State] | str:
        """The place in the stream that the snapshot knows, or why it is of no use."""
        if snapshot.shape != codec.shape:
            return "shape_changed"
        try:
            opened = await self._opened(codec, snapshot.state)
            if opened.is_redacted:
                # The fold of the redacted events is the truth; the state's own redaction may be something else.
                return "subject_forgotten"
            state = codec.decode(opened.text)
        except (StorageError, ConfigurationError):
            raise
        except Exception:  # noqa: BLE001 - validators are users' code, and whatever they say, the stream says it better
            return "not_readable"
        return Folded(state, snapshot.version, snapshot.event_id, snapshot_version=snapshot.version, keys_asked_at=opened.keys_asked_at)

    async def _sealed(self, codec: StateCodec[State], text: str) -> str:
        if self._personal is None or (sealed_class := codec.sealed_class(text)) is None:
            return text
        return await self._personal.seal_state(sealed_class, text)

    async def _opened(self, codec: StateCodec[State], text: str) -> OpenedState:
        if self._personal is None or (sealed_class := codec.sealed_class(text)) is None:
            return OpenedState(text)
        return await self._personal.open_state(sealed_class, text)

    async def _fold(self, start: Folded[State], up_to: int) -> Folded[State] | None:
        """Go on from a place in the stream; None if the stream does not have the event there."""
        state, version, event_id, asked_at = start.state, start.version, start.event_id, start.keys_asked_at
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
            if recorded.keys_asked_at is not None:
                asked_at = recorded.keys_asked_at if asked_at is None else min(asked_at, recorded.keys_asked_at)
        return replace(start, state=state, version=version, event_id=event_id, keys_asked_at=asked_at)

    def _tell_refusal(self, codec: StateCodec[State]) -> None:
        if not codec.is_refusal_told:
            codec.is_refusal_told = True
            _log.warning(
                "snapshots_not_kept",
                stream_name=self._stream_name,
                decider=codec.decider_name,
                reason="the stream's events have personal fields, and its state has none: a snapshot would hold them unencrypted",
                hint="mark the state's personal fields (Annotated[str, Personal(subject=...)] in a pydantic model), or, where the state keeps none "
                "of them, say Snapshots(holds_personal_data=False)",
            )

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
            reason = str(error) if type(error) is ValueError or isinstance(error, InvalidEvent) else ""
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
