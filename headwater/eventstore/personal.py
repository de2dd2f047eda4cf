"""A store whose log holds personal data sealed, and whose callers see it open."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Final
from uuid import UUID

from headwater.eventstore.conditions import AppendCondition, EventQuery, Matching
from headwater.eventstore.forwarding import ForwardingEventStore
from headwater.eventstore.selection import EventSelection
from headwater.eventstore.store import (
    READ_BATCH_SIZE,
    EventStore,
    LogSlice,
    SelectedSlice,
    StreamAppend,
)
from headwater.messages import AppendResult, Event, ExpectedVersion, NewEvent, RecordedEvent
from headwater.postgres import CallerConnection
from headwater.privacy import PersonalData, is_sealed

OPENED_AT_ONCE: Final = 100
"""Events of a stream whose keys are fetched together."""


class PersonalEventStore(ForwardingEventStore):
    """Seals personal fields on the way into another store, and opens them on the way out: redacted, once their subject was forgotten.

    An event whose sealed values were altered comes sealed; decoding it raises SealBroken. Whoever is to pass on ciphertext, like the relay, reads
    the other store directly.
    """

    def __init__(self, store: EventStore, personal: PersonalData) -> None:
        super().__init__(store)
        self._personal = personal

    async def append(
        self,
        stream_name: str,
        events: Sequence[Event | NewEvent],
        *,
        expected_version: ExpectedVersion,
        connection: CallerConnection | None = None,
    ) -> AppendResult:
        """Add events to the end of one stream, personal fields sealed; see `EventStore.append`.

        The keys of new subjects are committed before, on a connection of their own, also where the append joins the caller's transaction.

        Raises:
            SubjectForgotten: there is personal data of a forgotten subject; nothing was stored.
        """
        sealed = await self._personal.seal(events)
        return await self._store.append(stream_name, sealed, expected_version=expected_version, connection=connection)

    async def append_to_streams(
        self,
        appends: Sequence[StreamAppend],
        *,
        condition: AppendCondition | None = None,
        connection: CallerConnection | None = None,
    ) -> tuple[AppendResult, ...]:
        """Add events to the ends of several streams, personal fields sealed; see `append` and `EventStore.append_to_streams`."""
        sealed = [replace(one, events=await self._personal.seal(one.events)) for one in appends]
        return await self._store.append_to_streams(sealed, condition=condition, connection=connection)

    async def read_matching(self, query: EventQuery | Sequence[EventQuery], *, connection: CallerConnection | None = None) -> Matching:
        """What a decision over several streams depends on, opened; see `EventStore.read_matching`."""
        read = await self._store.read_matching(query, connection=connection)
        return replace(read, events=tuple(await self._personal.open(read.events)))

    async def find_event(self, event_id: UUID, *, connection: CallerConnection | None = None) -> RecordedEvent | None:
        """The event of this id, opened, if it is stored; see `EventStore.find_event`."""
        found = await self._store.find_event(event_id, connection=connection)
        return None if found is None else (await self._personal.open([found]))[0]

    async def read_stream(
        self,
        stream_name: str,
        *,
        from_version: int | None = None,
        backwards: bool = False,
        limit: int | None = None,
        connection: CallerConnection | None = None,
    ) -> AsyncIterator[RecordedEvent]:
        """The stream's events in order of version, opened; see `EventStore.read_stream`."""
        waiting: list[RecordedEvent] = []
        async for event in self._store.read_stream(
            stream_name, from_version=from_version, backwards=backwards, limit=limit, connection=connection
        ):
            if not waiting and not is_sealed(event):
                yield event
                continue
            waiting.append(event)
            if len(waiting) == OPENED_AT_ONCE:
                for opened in await self._personal.open(waiting):
                    yield opened
                waiting.clear()
        for opened in await self._personal.open(waiting):
            yield opened

    async def read_log(self, *, after: int, limit: int = READ_BATCH_SIZE, horizon: int | None = None) -> LogSlice:
        """The next events of the whole log, opened, up to the horizon; see `EventStore.read_log`."""
        read = await self._store.read_log(after=after, limit=limit, horizon=horizon)
        opened = await self._personal.open(read.events)
        return read if opened is read.events else LogSlice(tuple(opened), read.horizon)

    async def read_selected(self, selection: EventSelection, *, after: int, limit: int = READ_BATCH_SIZE) -> SelectedSlice:
        """The next events that a selection wants, opened, up to the horizon; see `EventStore.read_selected`."""
        read = await self._store.read_selected(selection, after=after, limit=limit)
        return replace(read, events=tuple(await self._personal.open(read.events)))
