"""The same through crashes of PostgreSQL, with prepared transactions left behind for others to finish."""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest

from headwater.embedded import EmbeddedPostgres
from headwater.errors import HeadwaterError
from headwater.eventstore import PostgresEventStore
from headwater.postgres import Database
from headwater.testing import MigratedDatabases, eventually
from tests.fault.eventstore.tailing import TAKE_NO_LOCK, WRITERS, Committed, Outcome, Tail, append_somewhere, compare
from tests.support import full_count, write_evidence

TRANSACTIONS_BETWEEN_CRASHES = 60
LEFT_BEHIND_SECONDS = 0.2
CONNECTION_LOST = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, HeadwaterError)


@pytest.fixture
def server() -> Iterator[EmbeddedPostgres]:
    """A server of this test's own, to crash."""
    with EmbeddedPostgres() as started:
        yield started


async def test_reader_sees_exactly_the_committed_log_through_crashes(server: EmbeddedPostgres) -> None:
    crashes = full_count(default=2, full=10)
    outcome, committed, tail = await run_through_crashes(server, crashes, seed=1)
    assert (outcome.missed, outcome.phantoms, outcome.lost) == (0, 0, 0), outcome
    assert committed.prepared > 0
    write_evidence(
        "crash",
        {
            "crashes": crashes,
            "events": outcome.events,
            "missed": outcome.missed,
            "phantoms": outcome.phantoms,
            "acknowledged_and_lost": outcome.lost,
            "prepared_transactions": committed.prepared,
            "reads_cut_off": tail.interruptions,
        },
    )


async def test_reader_misses_events_through_crashes_without_the_lock(server: EmbeddedPostgres) -> None:
    """The test above is able to fail."""
    missed = 0
    try:
        outcome, _, _ = await run_through_crashes(server, 1, seed=1, sabotage=TAKE_NO_LOCK)
        missed = outcome.missed
    except* AssertionError as out_of_order:
        assert "out of order" in str(out_of_order.exceptions)  # noqa: PT017 - a group
        missed += 1
    assert missed > 0, "nothing was missed with the lock taken out: the test proves nothing"


async def run_through_crashes(
    server: EmbeddedPostgres, crashes: int, *, seed: int, sabotage: str | None = None
) -> tuple[Outcome, Committed, Tail]:
    dsn = MigratedDatabases(server.dsn).create()
    if sabotage is not None:
        async with persistent(dsn) as connection:
            await connection.execute(sabotage)
    committed, tail = Committed(), Tail()
    stop_writing, writers_done = asyncio.Event(), asyncio.Event()
    async with Database(dsn) as database, asyncio.TaskGroup() as tasks:
        tasks.create_task(tail.follow(PostgresEventStore(database), writers_done))
        sweeper = tasks.create_task(finish_what_was_left(dsn, seed))
        async with asyncio.TaskGroup() as writing:
            for writer in range(WRITERS):
                writing.create_task(write_until(dsn, writer, seed, committed, stop_writing))
            for _ in range(crashes):
                enough = committed.transactions + TRANSACTIONS_BETWEEN_CRASHES, committed.prepared + 2
                await eventually(lambda enough=enough: committed.transactions >= enough[0] and committed.prepared >= enough[1], timeout=60)
                await asyncio.to_thread(server.crash_restart)
            await eventually(
                lambda enough=committed.transactions + TRANSACTIONS_BETWEEN_CRASHES: committed.transactions >= enough, timeout=60
            )
            stop_writing.set()
        await eventually(lambda: none_prepared(dsn), timeout=30)
        sweeper.cancel()
        writers_done.set()
    return await compare(dsn, tail, committed), committed, tail


async def write_until(dsn: str, writer: int, seed: int, committed: Committed, stop: asyncio.Event) -> None:
    """Append in transactions: some aborted, some prepared and left to others, all cut off by a crash at any moment."""
    chance = random.Random(f"{seed}-{writer}")
    store = PostgresEventStore(Database(dsn))
    while not stop.is_set():
        async with persistent(dsn) as connection:
            with contextlib.suppress(*CONNECTION_LOST):
                # Acknowledged means durable even for a session that says otherwise: the append raises this to `local`.
                await connection.execute("SET synchronous_commit = off")
                while not stop.is_set():
                    await write_once(store, connection, writer, chance, committed)


async def write_once(
    store: PostgresEventStore, connection: asyncpg.Connection, writer: int, chance: random.Random, committed: Committed
) -> None:
    await connection.execute("BEGIN")
    events = await append_somewhere(store, connection, writer, chance)
    fate = chance.random()
    if chance.random() < 0.1:
        await asyncio.sleep(chance.random() * 0.02)
    if fate < 0.05:
        # Left behind for the sweeper, or for whoever comes after the crash.
        await connection.execute(f"PREPARE TRANSACTION 'left-{uuid.UUID(int=chance.getrandbits(128))}'")
        committed.prepared += 1
    elif fate < 0.15:
        await connection.execute("ROLLBACK")
        committed.aborted_ids.update(event.event_id for event in events)
    else:
        await connection.execute("COMMIT")
        committed.event_ids.update(event.event_id for event in events)
        committed.transactions += 1


async def finish_what_was_left(dsn: str, seed: int) -> None:
    """Commit or roll back prepared transactions that are a little old, for ever."""
    chance = random.Random(seed)
    while True:
        async with persistent(dsn) as connection:
            with contextlib.suppress(*CONNECTION_LOST):
                while True:
                    left = await connection.fetch(
                        "SELECT gid FROM pg_prepared_xacts WHERE prepared < clock_timestamp() - make_interval(secs => $1)",
                        LEFT_BEHIND_SECONDS,
                    )
                    for row in left:
                        await connection.execute(f"{chance.choice(['COMMIT', 'ROLLBACK'])} PREPARED '{row['gid']}'")
                    await asyncio.sleep(0.05)


async def none_prepared(dsn: str) -> bool:
    async with persistent(dsn) as connection:
        return await connection.fetchval("SELECT NOT EXISTS (SELECT FROM pg_prepared_xacts)")


@contextlib.asynccontextmanager
async def persistent(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection, as soon as the server gives one."""

    async def connect() -> asyncpg.Connection | None:
        try:
            return await asyncpg.connect(dsn, timeout=5)
        except CONNECTION_LOST:
            return None

    connection = await eventually(connect, timeout=60)
    assert connection is not None
    try:
        yield connection
    finally:
        connection.terminate()
