"""Appends to be cut short everywhere: by one caller, by several at once, inside a transaction."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from headwater.errors import DuplicateEvent, StorageUnavailable, WrongExpectedVersion
from headwater.eventstore import AppendCondition, EventQuery, PostgresEventStore, StreamAppend
from headwater.messages import ANY, AppendResult, NewEvent
from headwater.postgres import Database
from headwater.testing.crash_points import Callers, CrashScenario

_STORES: WeakKeyDictionary[Database, PostgresEventStore] = WeakKeyDictionary()


def store_of(database: Database) -> PostgresEventStore:
    """The one store of a process: the same before and after a fault that the process lived through."""
    if database not in _STORES:
        _STORES[database] = PostgresEventStore(database)
    return _STORES[database]


def new_events(count: int) -> list[NewEvent]:
    return [NewEvent("Happened", f'{{"n": {n}}}') for n in range(count)]


_WHICH_HAVE_EVENTS = """
SELECT DISTINCT stream_name FROM headwater.events JOIN headwater.streams USING (stream_id) WHERE stream_name = ANY ($1)
"""


async def stored_ids(database: Database, stream_name: str) -> list[uuid.UUID]:
    store = store_of(database)
    stored = [event async for event in store.read_stream(stream_name)]
    assert [event.version for event in stored] == list(range(1, len(stored) + 1)), "holes in the versions"
    return [event.event_id for event in stored]


class SingleAppend(CrashScenario):
    """One append on the store's own connections."""

    count = 1

    def __init__(self) -> None:
        self.stream_name = f"crash-{uuid.uuid4().hex}"
        self.events = new_events(self.count)
        self.ids = [event.event_id for event in self.events]
        self.result: AppendResult | None = None

    async def act(self, database: Database, callers: Callers) -> None:
        self.result = await self.append(database)

    async def append(self, database: Database) -> AppendResult:
        return await store_of(database).append(self.stream_name, self.events, expected_version=0)

    async def recover(self, database: Database) -> None:
        stored = await stored_ids(database, self.stream_name)
        # Before it is repeated: an acknowledged append is there, any other one is there whole or not at all.
        assert stored in ([self.ids] if self.result else [[], self.ids]), f"half stored, or acknowledged and lost: {stored}"
        repeated = await self.append(database)
        assert self.result in {None, repeated}, "the repetition answers otherwise than the first"
        self.result = repeated

    async def check(self, database: Database) -> None:
        assert await stored_ids(database, self.stream_name) == self.ids
        log = [event async for event in store_of(database).read_stream(self.stream_name)]
        assert self.result == AppendResult(self.stream_name, len(log), log[-1].global_position)


class BatchAppend(SingleAppend):
    """Many events in one append."""

    count = 25


class RepeatedAppend(BatchAppend):
    """An append that was stored before: every repetition of it answers the same."""

    async def prepare(self, database: Database) -> None:
        self.first = await self.append(database)
        await store_of(database).append(self.stream_name, new_events(1), expected_version=self.count)

    async def recover(self, database: Database) -> None:
        assert await self.append(database) == self.first
        assert self.result in {None, self.first}

    async def check(self, database: Database) -> None:
        assert (await stored_ids(database, self.stream_name))[:-1] == self.ids


class AppendInTransaction(SingleAppend):
    """Two streams in the caller's own transaction: both or neither."""

    def __init__(self) -> None:
        super().__init__()
        self.other_name, self.other_events = f"{self.stream_name}-b", new_events(2)

    async def append(self, database: Database) -> AppendResult:
        store = store_of(database)
        async with database.transaction() as connection:
            await store.append(self.other_name, self.other_events, expected_version=0, connection=connection)
            return await store.append(self.stream_name, self.events, expected_version=0, connection=connection)

    async def recover(self, database: Database) -> None:
        # In one look: what was cut off may be committed at any moment yet.
        async with database.connection() as connection:
            stored = await connection.fetch(_WHICH_HAVE_EVENTS, [self.other_name, self.stream_name])
        assert len(stored) in {0, 2}, f"one of two streams was stored: {stored}"
        await super().recover(database)

    async def check(self, database: Database) -> None:
        await super().check(database)
        assert await stored_ids(database, self.other_name) == [event.event_id for event in self.other_events]


class AppendToStreams(AppendInTransaction):
    """Two streams in one call: both or neither."""

    async def append(self, database: Database) -> AppendResult:
        _, result = await store_of(database).append_to_streams(self.appends())
        return result

    def appends(self) -> list[StreamAppend]:
        return [StreamAppend(self.other_name, self.other_events, 0), StreamAppend(self.stream_name, self.events, 0)]


class ConditionalAppend(AppendToStreams):
    """The same under a condition over a tag that an earlier event carries, too."""

    async def prepare(self, database: Database) -> None:
        tag = f"course:{self.stream_name}"
        self.events = [NewEvent("Booked", "{}", tags=(tag,))]
        self.ids = [event.event_id for event in self.events]
        await store_of(database).append(f"{self.stream_name}-c", [NewEvent("CoursePlanned", "{}", tags=(tag,))], expected_version=0)
        query = EventQuery(tags=(tag,))
        self.condition = AppendCondition(query, (await store_of(database).read_matching(query)).token)

    async def append(self, database: Database) -> AppendResult:
        _, result = await store_of(database).append_to_streams(self.appends(), condition=self.condition)
        return result


class CallersTogether(CrashScenario):
    """Several callers at once, who may be written in one group: what befalls one touches no other.

    Three append to streams of their own, two to one stream, one is a conflict, one a duplicate: they fail alone.
    """

    def __init__(self) -> None:
        self.name = f"crash-{uuid.uuid4().hex}"
        self.appends = [(f"{self.name}-{stream}", new_events(1 + caller)) for caller, stream in enumerate((0, 1, 2, 3, 3))]
        self.seed = new_events(2)
        self.outcomes: list[Any] = []

    async def prepare(self, database: Database) -> None:
        await store_of(database).append(f"{self.name}-taken", self.seed, expected_version=0)

    def callers(self, database: Database) -> list[Any]:
        store = store_of(database)
        return [
            *(store.append(stream_name, events, expected_version=ANY) for stream_name, events in self.appends),
            store.append(f"{self.name}-taken", new_events(1), expected_version=0),
            store.append(f"{self.name}-0x", [self.seed[1]], expected_version=ANY),
        ]

    async def act(self, database: Database, callers: Callers) -> None:
        self.outcomes = await callers.together(*self.callers(database))
        self.check_outcomes(self.outcomes)
        cancelled = [outcome for outcome in self.outcomes if isinstance(outcome, asyncio.CancelledError)]
        assert len(cancelled) <= 1, "one caller was cancelled, and others with it"

    def check_outcomes(self, outcomes: Sequence[Any]) -> None:
        """Everybody has a result, or an error of its own kind, or was cut short by the fault."""
        kinds = [*([AppendResult] * len(self.appends)), WrongExpectedVersion, DuplicateEvent]
        for outcome, kind in zip(outcomes, kinds, strict=True):
            assert isinstance(outcome, (kind, asyncio.CancelledError, StorageUnavailable)), f"{outcome!r} instead of {kind.__name__}"

    async def recover(self, database: Database) -> None:
        for (stream_name, events), outcome in zip(self.appends, self.outcomes or [None] * len(self.appends), strict=False):
            ids = [event.event_id for event in events]
            stored = [event_id for event_id in await stored_ids(database, stream_name) if event_id in ids]
            assert stored in ([ids] if isinstance(outcome, AppendResult) else [[], ids]), f"half stored, or acknowledged and lost: {stored}"
        repeated = await asyncio.gather(*self.callers(database), return_exceptions=True)
        self.check_outcomes(repeated)
        assert not any(isinstance(outcome, StorageUnavailable) for outcome in repeated), "the repetition failed"
        for first, again in zip(self.outcomes, repeated, strict=False):
            assert first == again or not isinstance(first, AppendResult), "the repetition answers otherwise than the first"

    async def check(self, database: Database) -> None:
        streams: dict[str, set[uuid.UUID]] = {}
        for stream_name, events in self.appends:
            streams.setdefault(stream_name, set()).update(event.event_id for event in events)
        for stream_name, ids in streams.items():
            stored = await stored_ids(database, stream_name)
            assert (len(stored), set(stored)) == (len(ids), ids)
        assert await stored_ids(database, f"{self.name}-taken") == [event.event_id for event in self.seed]
        assert await stored_ids(database, f"{self.name}-0x") == []
