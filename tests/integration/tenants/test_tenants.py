"""Several logs in one database know nothing of each other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from headwater.errors import MigrationNeeded, UsageError
from headwater.eventstore import LogInspection, PostgresEventStore
from headwater.messages import ANY
from headwater.postgres import Database, apply_migrations, migration_status, require_current_schema, sql_file
from headwater.projections.postgres import OwnSession, has_appended, pin_version
from tests.integration.eventstore.logs import OrderPlaced, append, read_positions
from tests.integration.tenants.conftest import migrated


async def locks_held(connection: asyncpg.Connection) -> set[int]:
    """The namespaces of the append locks that this transaction holds."""
    rows = await connection.fetch(
        "SELECT classid::bigint >> 16 AS namespace FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND pid = pg_backend_pid()"
    )
    return {row["namespace"] for row in rows}


async def namespace(database: Database) -> int:
    async with database.connection() as connection:
        return int(await connection.fetchval(f'SELECT "{database.schema}".append_lock_namespace()'))


@asynccontextmanager
async def plain_transaction(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A caller's own connection, which knows nothing of tenants."""
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            yield connection
    finally:
        await connection.close()


# -- apart


async def test_streams_positions_and_identity_are_each_logs_own(store: PostgresEventStore, others_store: PostgresEventStore) -> None:
    assert [await append(store), await append(store), await append(others_store)] == [1, 2, 1]
    assert await store.stream_version("order-1") == 2
    assert await others_store.stream_version("order-1") == 1
    assert (await read_positions(store), await read_positions(others_store)) == ([1, 2], [1])
    assert (await store.identity()).log_id != (await others_store.identity()).log_id


async def test_an_open_append_holds_its_own_log_alone(store: PostgresEventStore, others_store: PostgresEventStore, acme: Database) -> None:
    await append(store)
    async with acme.transaction() as connection:
        await append(store, connection)
        for _ in range(3):
            await append(others_store)
        await append(store, stream_name="order-2")
        assert (await store.horizon(), await others_store.horizon()) == (1, 3)
        stats = await LogInspection(acme).stats()
        assert [writer.position for writer in stats.writers] == [1]
    assert await store.horizon() == 3


async def test_namespaces_of_the_logs_of_a_database_differ(empty_postgres_dsn: str, acme: Database, order: Database) -> None:
    others = [await migrated(empty_postgres_dsn, schema) for schema in ("headwater", "b", "c")]
    found = [await namespace(database) for database in (acme, order, *others)]
    assert len({number + offset for number in found for offset in range(8)}) == 8 * len(found)
    for database in others:
        await database.close()


async def test_tenants_made_at_once_get_different_namespaces(empty_postgres_dsn: str) -> None:
    databases = await asyncio.gather(*(migrated(empty_postgres_dsn, f"tenant_{number}") for number in range(5)))
    assert len({await namespace(database) for database in databases}) == 5
    for database in databases:
        await database.close()


async def test_logs_that_share_a_namespace_skip_nothing_and_migrate_parts_them(
    store: PostgresEventStore, others_store: PostgresEventStore, acme: Database, order: Database
) -> None:
    """As a schema restored from another database may: the horizon is lower than it need be, never higher."""
    shared = await namespace(acme)
    async with order.connection() as connection:
        await connection.execute(
            'CREATE OR REPLACE FUNCTION "order".append_lock_namespace() RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE '
            f"AS 'SELECT {shared}::bigint'"
        )
    for _ in range(3):
        await append(store)
    async with order.transaction() as connection:
        await append(others_store, connection)
        assert await store.horizon() == 0
    assert await store.horizon() == 3

    async with order.transaction() as open_append:
        await append(others_store, open_append)
        migrating = asyncio.create_task(migrate(order))
        # Its lock is of the old namespace; nobody may read with the new one before it has ended.
        await wait_until_blocked(open_append, "order")
        assert await others_store.horizon() == 1
        appending = asyncio.create_task(append(others_store, stream_name="order-7"))
    assert await asyncio.wait_for(migrating, 30) == ()
    assert await asyncio.wait_for(appending, 30) == 3
    assert await namespace(order) != shared
    async with order.transaction() as connection:
        await append(others_store, connection)
        assert (await locks_held(connection), await others_store.horizon()) == ({await namespace(order)}, 3)
        assert await append(store) == await store.horizon()


async def migrate(database: Database) -> tuple[object, ...]:
    async with database.connection() as connection:
        return await apply_migrations(connection)


async def wait_until_blocked(connection: asyncpg.Connection, schema: str) -> None:
    """Until somebody waits for this log's table of streams."""
    waiting = f"SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = '\"{schema}\".streams'::regclass)"
    async with asyncio.timeout(30):
        while not await connection.fetchval(waiting):
            await asyncio.sleep(0.01)


# -- together


async def test_one_transaction_appends_to_two_logs_under_both_locks(
    empty_postgres_dsn: str, store: PostgresEventStore, others_store: PostgresEventStore, acme: Database, order: Database
) -> None:
    async with plain_transaction(empty_postgres_dsn) as connection:
        await append(store, connection)
        await append(others_store, connection)
        await append(store, connection)
        assert await locks_held(connection) == {await namespace(acme), await namespace(order)}
        assert (await read_positions(store), await read_positions(others_store)) == ([], [])
        await append(store, stream_name="order-9")
        await append(others_store, stream_name="order-9")
        assert (await store.horizon(), await others_store.horizon()) == (0, 0)
    assert (await read_positions(store), await read_positions(others_store)) == ([1, 2, 3], [1, 2])


@pytest.mark.parametrize("lender", ["acme", "order", "headwater"])
async def test_a_store_appends_to_its_own_log_on_any_logs_connection(
    lender: str, empty_postgres_dsn: str, store: PostgresEventStore, others_store: PostgresEventStore, acme: Database, order: Database
) -> None:
    default = await migrated(empty_postgres_dsn, "headwater")
    stores = {"acme": store, "order": others_store, "headwater": PostgresEventStore(default)}
    databases = {"acme": acme, "order": order, "headwater": default}
    async with databases[lender].transaction() as connection:
        for number, each in enumerate(stores.values(), start=1):
            for _ in range(number):
                await append(each, connection)
            assert [event.version async for event in each.read_stream("order-1", connection=connection)] == list(range(1, number + 1))
    assert [await read_positions(each) for each in stores.values()] == [[1], [1, 2], [1, 2, 3]]
    await default.close()


async def test_savepoint_gives_up_one_logs_lock_alone(
    empty_postgres_dsn: str, store: PostgresEventStore, others_store: PostgresEventStore, acme: Database, order: Database
) -> None:
    async with plain_transaction(empty_postgres_dsn) as connection:
        await append(store, connection)
        with pytest.raises(ZeroDivisionError):
            async with connection.transaction():
                await append(others_store, connection)
                raise ZeroDivisionError
        assert await locks_held(connection) == {await namespace(acme)}
        assert await has_appended(await acme.joined(connection))
        assert not await has_appended(await order.joined(connection))
        await append(others_store, connection)
        assert await locks_held(connection) == {await namespace(acme), await namespace(order)}


async def test_what_a_caller_says_is_not_rewritten(acme: Database) -> None:
    async with acme.transaction() as connection:
        await connection.execute("CREATE TEMP TABLE notes (text text)")
        await connection.execute("INSERT INTO notes VALUES ($1), ('see headwater.events')", "headwater.dev")
        assert await connection.fetchval("SELECT string_agg(text, ' ') FROM notes") == "headwater.dev see headwater.events"


# -- read models' locks


async def test_locks_of_read_models_are_each_logs_own(acme: Database, order: Database) -> None:
    one, other, second = OwnSession(acme), OwnSession(order), OwnSession(acme)
    assert await one.claim_rebuild("units")
    assert await other.claim_rebuild("units")
    assert not await second.claim_rebuild("units")
    async with acme.transaction() as pinned, order.transaction() as switching:
        await pin_version(pinned, "units")
        await switching.execute("SET LOCAL lock_timeout = '5s'")
        await switching.execute(sql_file("headwater.projections", "unpin_version"), "units")
    for session in (one, other, second):
        await session.close()


# -- the schema


async def test_each_log_is_migrated_by_itself(empty_postgres_dsn: str, acme: Database) -> None:
    async with Database(empty_postgres_dsn, schema="zeta") as zeta, zeta.connection() as connection:
        assert not (await migration_status(connection)).applied
        with pytest.raises(MigrationNeeded, match="headwater migrate"):
            await PostgresEventStore(zeta).append("order-1", [OrderPlaced()], expected_version=ANY)
        await apply_migrations(connection)
        await require_current_schema(connection)
    async with acme.connection() as connection:
        assert await apply_migrations(connection) == ()


async def test_a_tenants_schema_is_the_default_one_under_another_name(empty_postgres_dsn: str, acme: Database) -> None:
    default = await migrated(empty_postgres_dsn, "headwater")
    listing = """
        SELECT c.relkind::text || ' ' || c.relname
               || coalesce(' ' || string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ', ' ORDER BY a.attnum), '') AS line
          FROM pg_class AS c
          LEFT JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0
         WHERE c.relnamespace = $1::regnamespace
         GROUP BY c.oid
         UNION ALL
        SELECT conname || ' ' || replace(replace(pg_get_constraintdef(oid), 'acme.', ''), 'headwater.', '')
          FROM pg_constraint
         WHERE connamespace = $1::regnamespace
         UNION ALL
        SELECT replace(replace(pg_get_functiondef(oid), '"acme"', 'acme'), 'acme', 'headwater')
          FROM pg_proc
         WHERE pronamespace = $1::regnamespace
           AND proname <> 'append_lock_namespace'
         ORDER BY line
    """
    async with default.connection() as connection:
        lines = {schema: [row["line"] for row in await connection.fetch(listing, schema)] for schema in ("headwater", "acme")}
    assert lines["acme"] == lines["headwater"]
    assert len(lines["acme"]) > 40
    await default.close()


async def test_refused_names_are_refused_before_anything_is_sent() -> None:
    with pytest.raises(UsageError, match="schema cannot be named"):
        Database("postgresql://nowhere", schema="public")


async def test_a_session_of_sqlalchemy_reaches_the_tenants_log(empty_postgres_dsn: str, store: PostgresEventStore, acme: Database) -> None:
    engine = create_async_engine(empty_postgres_dsn.replace("postgresql://", "postgresql+asyncpg://"))
    async with AsyncSession(engine) as session:
        await append(store, session)
        assert [event.version async for event in store.read_stream("order-1", connection=session)] == [1]
        await session.rollback()
        await append(store, session)
        await session.commit()
    await engine.dispose()
    assert await store.stream_version("order-1") == 1
