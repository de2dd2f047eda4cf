"""Each rule of the log is needed: with the rule left out, what it prevents happens. These schedules are fixed, not raced."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from headwater.errors import ConcurrencyError
from headwater.eventstore import PostgresEventStore
from headwater.messages import NewEvent
from headwater.postgres import Database
from headwater.testing import eventually
from tests.integration.eventstore.logs import SOMEBODY_WAITS_FOR_US, OrderPlaced, append, read_positions

LOCK_THE_UNDRAWN_VALUE = """
CREATE OR REPLACE FUNCTION headwater.take_append_lock() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared((headwater.append_lock_namespace() << 48) | (SELECT last_value FROM headwater.global_position_seq));
END $$"""
REMEMBER_THE_LOCK_BEYOND_SAVEPOINTS = """
CREATE OR REPLACE FUNCTION headwater.take_append_lock() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    -- A sequence's value is not undone by ROLLBACK TO SAVEPOINT, and neither is a variable in Python.
    IF (SELECT is_called FROM public.remembered) THEN RETURN; END IF;
    PERFORM nextval('public.remembered');
    PERFORM pg_advisory_xact_lock_shared((headwater.append_lock_namespace() << 48) | last_value - (NOT is_called)::int)
       FROM headwater.global_position_seq;
END $$"""
READ_ANYWHERE = """
CREATE OR REPLACE FUNCTION headwater.read_horizon() RETURNS bigint LANGUAGE sql VOLATILE AS $$
    SELECT last_value - (NOT is_called)::int FROM headwater.global_position_seq
$$"""
DURABILITY_AS_A_CLAUSE = "ALTER FUNCTION headwater.append_unit SET synchronous_commit = 'local'"


async def test_key_of_a_fresh_sequence_must_be_zero(store: PostgresEventStore, other: asyncpg.Connection) -> None:
    """Rule 1: otherwise the first event looks decided while it is in flight."""
    await other.execute(LOCK_THE_UNDRAWN_VALUE)
    async with other.transaction():
        await append(store, other)
        await append(store, stream_name="order-2")
        horizon = await store.horizon()
    assert horizon == 1, "a reader would have moved past position 1 before it was committed"


async def test_lock_must_be_forgotten_with_its_savepoint(store: PostgresEventStore, other: asyncpg.Connection) -> None:
    """Rule 2: otherwise an append after ROLLBACK TO SAVEPOINT is in flight without a lock, and is skipped."""
    await other.execute("CREATE SEQUENCE public.remembered")
    await other.execute("GRANT ALL ON SEQUENCE public.remembered TO PUBLIC")
    await other.execute(REMEMBER_THE_LOCK_BEYOND_SAVEPOINTS)
    async with other.transaction():
        savepoint = other.transaction()
        await savepoint.start()
        await append(store, other)
        await savepoint.rollback()
        position = await append(store, other)
        await append(store, stream_name="order-2")
        read = await read_positions(store)
    assert read == [position + 1], "the reader went past an append in flight"


async def test_old_snapshot_misses_what_the_horizon_allows(store: PostgresEventStore, other: asyncpg.Connection, postgres_dsn: str) -> None:
    """Rule 3: under REPEATABLE READ the horizon is of now, the events are of then."""
    await other.execute(READ_ANYWHERE)
    reader = await asyncpg.connect(postgres_dsn)
    async with reader.transaction(isolation="repeatable_read"):
        await reader.fetchval("SELECT count(*) FROM headwater.events")
        position = await append(store)
        horizon = await reader.fetchval("SELECT headwater.read_horizon()")
        seen = await reader.fetchval("SELECT count(*) FROM headwater.events WHERE global_position <= $1", horizon)
    await reader.close()
    assert (horizon, seen) == (position, 0), "the reader would have moved past an event it did not see"


async def test_durability_clause_is_undone_before_the_commit(store: PostgresEventStore, database: Database) -> None:
    """Rule 4: a SET clause on the function ends with the function."""
    async with database.connection() as connection:
        await connection.execute(DURABILITY_AS_A_CLAUSE)
        async with connection.transaction():
            await connection.execute("SET LOCAL synchronous_commit = off")
            await store.append("order-1", [OrderPlaced()], expected_version=0, connection=connection)
            assert await connection.fetchval("SHOW synchronous_commit") == "off"


async def test_stream_must_be_locked_before_ids_and_versions_are_looked_up(store: PostgresEventStore, database: Database) -> None:
    """Rule 7: otherwise the repetition of an append in flight does not see it, and fails instead of answering the same."""
    await append(store)
    events = [NewEvent.of(OrderPlaced())]
    async with database.connection() as connection:
        lock_streams = await connection.fetchval("SELECT pg_get_functiondef('headwater.lock_streams'::regproc)")
        assert lock_streams.count("FOR NO KEY UPDATE") == 3
        await connection.execute(lock_streams.replace("FOR NO KEY UPDATE SKIP LOCKED", "").replace("FOR NO KEY UPDATE", ""))
    async with database.transaction() as connection:
        await store.append("order-1", events, expected_version=1, connection=connection)
        second = asyncio.create_task(_append_in_own_transaction(store, database, events))
        await eventually(lambda: connection.fetchval(SOMEBODY_WAITS_FOR_US))
    with pytest.raises(ConcurrencyError):
        await second


async def _append_in_own_transaction(store: PostgresEventStore, database: Database, events: list[NewEvent]) -> None:
    async with database.transaction() as connection:
        await store.append("order-1", events, expected_version=1, connection=connection)


async def test_updated_stream_row_leaves_a_dead_one_with_every_append(store: PostgresEventStore, other: asyncpg.Connection) -> None:
    """Rule 6: under a foreign snapshot they pile up, and each append steps over all of them."""
    try_append_one = await other.fetchval("SELECT pg_get_functiondef('headwater.try_append_one'::regproc)")
    update = "UPDATE headwater.streams AS s SET stream_name = s.stream_name WHERE s.stream_name = try_append_one.stream_name;"
    await other.execute(try_append_one.replace("BEGIN\n", f"BEGIN\n {update}\n", 1))
    places = set()
    for _ in range(5):
        await append(store)
        places.add(await other.fetchval("SELECT ctid::text FROM headwater.streams"))
    assert len(places) == 5


async def test_cursor_on_the_horizon_misses_positions_drawn_again(store: PostgresEventStore, other: asyncpg.Connection) -> None:
    """Rule 5: after a crash the sequence hands out again what aborted writers had drawn; a cursor rests on an event it has read."""
    await append(store)
    transaction = other.transaction()
    await transaction.start()
    await append(store, other, "order-2", count=3)
    await transaction.rollback()
    log = await store.read_log(after=0)
    assert (log.events[-1].global_position, log.horizon) == (1, 4)
    await other.execute("SELECT setval('headwater.global_position_seq', 1)")  # what recovery may do with draws that were never written
    position = await append(store)
    assert await read_positions(store, after=log.horizon) == [], "a cursor on the horizon misses it"
    assert await read_positions(store, after=log.events[-1].global_position) == [position]
