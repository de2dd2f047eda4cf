"""Writers that misbehave, and a reader beside them that must see exactly what they committed."""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import asyncpg

from headwater.errors import StorageUnavailable, WrongExpectedVersion
from headwater.eventstore import PostgresEventStore
from headwater.messages import ANY, NewEvent
from headwater.postgres import Database

WRITERS = 16
STREAMS_PER_WRITER = 5
ORDER_BY_POSITION = "SELECT global_position, stream_name, version, event_id FROM headwater.log ORDER BY global_position"

TAKE_NO_LOCK = """CREATE OR REPLACE FUNCTION headwater.take_append_lock() RETURNS void LANGUAGE plpgsql AS $$ BEGIN END $$"""


@dataclass
class Tail:
    """What the reader saw, in the order it saw it."""

    seen: list[tuple[int, str, int, uuid.UUID]] = field(default_factory=list)
    reads: int = 0
    interruptions: int = 0

    async def follow(self, store: PostgresEventStore, writers_done: asyncio.Event) -> None:
        """Read on until the writers are done and nothing is left to read."""
        after, versions = 0, dict[str, int]()
        while True:
            done_before_reading = writers_done.is_set()
            try:
                log = await store.read_log(after=after, limit=200)
            except StorageUnavailable:
                self.interruptions += 1
                await asyncio.sleep(0.02)
                continue
            self.reads += 1
            for event in log.events:
                assert after < event.global_position <= log.horizon, "the log came out of order"
                assert event.version > versions.get(event.stream_name, 0), "a stream came out of order"
                after, versions[event.stream_name] = event.global_position, event.version
                self.seen.append((event.global_position, event.stream_name, event.version, event.event_id))
            if not log.events:
                if done_before_reading:
                    return
                await asyncio.sleep(0.001)


@dataclass
class Committed:
    """What the writers know for certain to be stored, and what they saw to it that it is not."""

    event_ids: set[uuid.UUID] = field(default_factory=set)
    aborted_ids: set[uuid.UUID] = field(default_factory=set)
    transactions: int = 0
    prepared: int = 0


def new_events(chance: random.Random) -> list[NewEvent]:
    return [
        NewEvent("Happened", f'{{"n": {n}}}', event_id=uuid.UUID(int=chance.getrandbits(128), version=4))
        for n in range(chance.randint(1, 5))
    ]


async def append_somewhere(store: PostgresEventStore, connection: asyncpg.Connection, writer: int, chance: random.Random) -> list[NewEvent]:
    """Append to one or two of the writer's streams; now and then undo an append to a savepoint first."""
    stored: list[NewEvent] = []
    for _ in range(2 if chance.random() < 0.15 else 1):
        stream_name = f"fault-{writer}x{chance.randrange(STREAMS_PER_WRITER)}"
        if chance.random() < 0.1:
            with contextlib.suppress(WrongExpectedVersion):
                async with connection.transaction():
                    await store.append(stream_name, new_events(chance), expected_version=ANY, connection=connection)
                    raise WrongExpectedVersion(stream_name=stream_name, expected="nothing", actual_version=0)
        events = new_events(chance)
        await store.append(stream_name, events, expected_version=ANY, connection=connection)
        stored += events
    return stored


async def write(dsn: str, writer: int, seed: int, transactions: int, committed: Committed) -> None:
    """Append in transactions of one's own; pause before a fifth of the commits, abort a tenth, vanish now and then."""
    chance = random.Random(f"{seed}-{writer}")
    store = PostgresEventStore(Database(dsn))
    connection = await asyncpg.connect(dsn)
    for _ in range(transactions):
        transaction = connection.transaction()
        await transaction.start()
        events = await append_somewhere(store, connection, writer, chance)
        if chance.random() < 0.2:
            await asyncio.sleep(chance.random() * 0.02)
        fate = chance.random()
        if fate < 0.1:
            await transaction.rollback()
        elif fate < 0.12:
            connection.terminate()
            connection = await asyncpg.connect(dsn)
        else:
            await transaction.commit()
            committed.event_ids.update(event.event_id for event in events)
            committed.transactions += 1
            continue
        committed.aborted_ids.update(event.event_id for event in events)
    await connection.close()


@dataclass
class Outcome:
    events: int
    missed: int
    phantoms: int
    lost: int
    reads: int


async def run_tail(
    dsn: str, seed: int, *, transactions: int = 40, sabotage: str | None = None, meanwhile: Callable[[], Awaitable[None]] | None = None
) -> Outcome:
    """One seeded run: writers beside a reader; what differs between the log and what the reader saw.

    Raises:
        AssertionError: the reader saw something out of order.
    """
    if sabotage is not None:
        connection = await asyncpg.connect(dsn)
        await connection.execute(sabotage)
        await connection.close()
    committed, tail, done = Committed(), Tail(), asyncio.Event()
    async with Database(dsn) as database, asyncio.TaskGroup() as tasks:
        tasks.create_task(tail.follow(PostgresEventStore(database), done))
        async with asyncio.TaskGroup() as writers:
            for writer in range(WRITERS):
                writers.create_task(write(dsn, writer, seed, transactions, committed))
        if meanwhile is not None:
            await meanwhile()
        done.set()
    return await compare(dsn, tail, committed)


async def compare(dsn: str, tail: Tail, committed: Committed) -> Outcome:
    """Hold what the reader saw against the log itself and against what the writers know."""
    connection = await asyncpg.connect(dsn)
    log = [tuple(row) for row in await connection.fetch(ORDER_BY_POSITION)]
    await connection.close()
    seen, stored = set(tail.seen), set(log)
    outcome = Outcome(
        events=len(log),
        missed=len(stored - seen),
        phantoms=len(seen - stored),
        lost=len(committed.event_ids - {row[3] for row in log}),
        reads=tail.reads,
    )
    if not outcome.missed and not outcome.phantoms:
        assert tail.seen == log, "the reader saw the right events in another order or more than once"
    assert not committed.aborted_ids & {row[3] for row in log}, "an aborted append is in the log"
    for versions in _versions(log).values():
        assert versions == list(range(1, len(versions) + 1)), "a stream has holes in its versions"
    return outcome


def _versions(log: list[tuple[int, str, int, uuid.UUID]]) -> dict[str, list[int]]:
    streams: dict[str, list[int]] = {}
    for _, stream_name, version, _ in log:
        streams.setdefault(stream_name, []).append(version)
    return streams
