"""How far the log may be read while appends are in flight, prepared, undone, or somebody else's."""

from __future__ import annotations

import asyncpg
import pytest

from headwater.errors import HorizonUnavailable
from headwater.eventstore import PostgresEventStore
from headwater.postgres import Database, translate_errors
from tests.integration.eventstore.logs import append, read_positions

APPEND_LOCKS = """
SELECT count(*) FROM pg_locks
 WHERE locktype = 'advisory' AND objsubid = 1 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""


async def test_first_append_of_a_log_holds_the_horizon(store: PostgresEventStore, other: asyncpg.Connection) -> None:
    """Rule 1: the fresh sequence's last value is 1 before it was drawn."""
    async with other.transaction():
        await append(store, other)
        assert await store.horizon() == 0
        await append(store, stream_name="order-2")
        assert await read_positions(store) == [], "an event was read beyond one in flight"
        assert await store.horizon() == 0
    assert await read_positions(store) == [1, 2]
    assert await store.horizon() == 2


async def test_append_in_flight_holds_what_came_after_it_alone(store: PostgresEventStore, other: asyncpg.Connection) -> None:
    for _ in range(3):
        await append(store)
    async with other.transaction():
        await append(store, other, "order-2", count=3)
        await append(store, stream_name="order-3")
        assert await read_positions(store) == [1, 2, 3]
        assert (await store.read_log(after=3)).horizon == 3
    assert await read_positions(store, after=3) == [4, 5, 6, 7]


async def test_aborted_append_leaves_a_hole_that_holds_nobody(store: PostgresEventStore, other: asyncpg.Connection) -> None:
    transaction = other.transaction()
    await transaction.start()
    await append(store, other, count=3)
    await append(store, stream_name="order-2")
    await transaction.rollback()
    assert await read_positions(store) == [4]
    assert await store.horizon() == 4


async def test_transaction_takes_one_append_lock_however_many_appends(store: PostgresEventStore, other: asyncpg.Connection) -> None:
    """Rule 2: one lock for each would exhaust the server's shared memory."""
    async with other.transaction():
        for number in range(50):
            await append(store, other, f"order-{number}")
        assert await other.fetchval(APPEND_LOCKS) == 1
    assert await other.fetchval(APPEND_LOCKS) == 0


async def test_append_after_a_savepoint_took_the_lock_back_holds_the_horizon(store: PostgresEventStore, other: asyncpg.Connection) -> None:
    """Rule 2: the lock is gone with the savepoint that took it, and must be taken anew."""
    async with other.transaction():
        savepoint = other.transaction()
        await savepoint.start()
        await append(store, other)
        await savepoint.rollback()
        assert await other.fetchval(APPEND_LOCKS) == 0
        await append(store, stream_name="order-2")
        position = await append(store, other)
        assert await other.fetchval(APPEND_LOCKS) == 1
        await append(store, stream_name="order-3")
        assert await read_positions(store) == [position - 1]
    assert await read_positions(store) == [2, 3, 4]


async def test_append_in_a_later_transaction_of_a_session_takes_its_own_lock(store: PostgresEventStore, other: asyncpg.Connection) -> None:
    for expected in (1, 2):
        async with other.transaction():
            await append(store, other)
            assert await other.fetchval(APPEND_LOCKS) == 1
            assert await store.horizon() == expected - 1


async def test_prepared_append_holds_the_horizon_until_somebody_finishes_it(store: PostgresEventStore, postgres_dsn: str) -> None:
    for finish, read in (("COMMIT", [1, 2]), ("ROLLBACK", [4])):
        connection = await asyncpg.connect(postgres_dsn)
        before = await store.horizon()
        await connection.execute("BEGIN")
        await append(store, connection)
        await connection.execute(f"PREPARE TRANSACTION 'horizon-{finish}'")
        await connection.close()
        await append(store, stream_name="order-2")
        assert await read_positions(store, after=before) == []
        assert await store.horizon() == before
        stranger = await asyncpg.connect(postgres_dsn)
        await stranger.execute(f"{finish} PREPARED 'horizon-{finish}'")
        await stranger.close()
        assert await read_positions(store, after=before) == read


@pytest.mark.parametrize("isolation", ["read_committed", "repeatable_read", "serializable"])
async def test_unrelated_transaction_holds_nobody(store: PostgresEventStore, other: asyncpg.Connection, isolation: str) -> None:
    async with other.transaction(isolation=isolation):
        assert await other.fetchval("SELECT pg_current_xact_id() IS NOT NULL")
        position = await append(store)
        assert await read_positions(store) == [position]
        assert await store.horizon() == position


async def test_other_peoples_advisory_locks_hold_nobody(store: PostgresEventStore, other: asyncpg.Connection, postgres_server: str) -> None:
    position = await append(store)
    elsewhere = await asyncpg.connect(postgres_server)
    try:
        for statement in (
            "SELECT pg_advisory_lock(0)",
            "SELECT pg_advisory_lock_shared(1)",
            "SELECT pg_advisory_lock(-1)",
            "SELECT pg_advisory_lock((18518::bigint << 48))",
            "SELECT pg_advisory_lock((18520::bigint << 48))",
            "SELECT pg_advisory_lock(18519 << 16, 0)",
        ):
            await other.execute(statement)
        # The very key of an append at the log's beginning, in another database of the server.
        await elsewhere.execute("SELECT pg_advisory_lock_shared(18519::bigint << 48)")
        assert await store.horizon() == position
    finally:
        await elsewhere.close()


async def test_positions_beyond_32_bits_are_kept_apart(store: PostgresEventStore, other: asyncpg.Connection) -> None:
    await other.execute("SELECT setval('headwater.global_position_seq', $1)", 2**33 + 5)
    async with other.transaction():
        assert await append(store, other) == 2**33 + 6
        assert await store.horizon() == 2**33 + 5
    assert await store.horizon() == 2**33 + 6


@pytest.mark.parametrize("isolation", ["repeatable_read", "serializable"])
async def test_horizon_is_refused_under_an_old_snapshot(database: Database, isolation: str) -> None:
    """Rule 3: the events would be read under a snapshot older than the horizon, and missed."""
    async with database.connection() as connection:
        with pytest.raises(HorizonUnavailable, match="READ COMMITTED"):
            with translate_errors():
                async with connection.transaction(isolation=isolation):
                    await connection.fetchval("SELECT headwater.read_horizon()")


async def test_store_reads_where_repeatable_read_is_the_databases_default(postgres_dsn: str, other: asyncpg.Connection) -> None:
    name = await other.fetchval("SELECT current_database()")
    await other.execute(f"ALTER DATABASE \"{name}\" SET default_transaction_isolation = 'repeatable read'")
    async with Database(postgres_dsn) as database:
        store = PostgresEventStore(database)
        position = await append(store)
        assert await read_positions(store) == [position]


async def test_what_the_horizon_relies_on_is_declared(other: asyncpg.Connection) -> None:
    """Rules 1 and 3: no reserve of positions in a session, and a snapshot for each statement of the function."""
    assert await other.fetchval("SELECT seqcache FROM pg_sequence WHERE seqrelid = 'headwater.global_position_seq'::regclass") == 1
    assert await other.fetchval("SELECT provolatile FROM pg_proc WHERE oid = 'headwater.read_horizon'::regproc") == b"v"


async def test_vanished_writers_are_noticed(database: Database) -> None:
    """Rule 11: a dead host must not hold the horizon for the two hours of TCP's defaults."""
    async with database.connection() as connection:
        settings = {
            name: await connection.fetchval(f"SHOW {name}")
            for name in ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count", "idle_in_transaction_session_timeout")
        }
    assert settings == {
        "tcp_keepalives_idle": "10",
        "tcp_keepalives_interval": "5",
        "tcp_keepalives_count": "3",
        "idle_in_transaction_session_timeout": "1min",
    }
