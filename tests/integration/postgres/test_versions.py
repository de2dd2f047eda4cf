"""The oldest PostgreSQL that is supported, and an owner who is no superuser, as managed servers have it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest

from headwater.eventstore import PostgresEventStore
from headwater.postgres import Database, Roles, apply_migrations, apply_roles
from headwater.projections import rebuild
from headwater.testing import MigratedDatabases
from headwater.testing.conformance import EventStoreConformance
from tests.foreign_servers import POSTGRES_15, OlderPostgres, at_full_count, require
from tests.integration.eventstore.logs import append
from tests.integration.projections.shop import OrderLines, UnitsOrdered, place, registry


@pytest.fixture(scope="module")
def oldest_server() -> Iterator[MigratedDatabases]:
    with OlderPostgres(require(POSTGRES_15 / "postgres", "postgresql-15").parent) as server:
        databases = MigratedDatabases(server.dsn)
        yield databases
        databases.close()


@pytest.fixture
def oldest_dsn(oldest_server: MigratedDatabases) -> Iterator[str]:
    with oldest_server.fresh() as dsn:
        yield dsn


@at_full_count
class TestOldestVersion(EventStoreConformance):
    joins_transactions = True

    @pytest.fixture
    async def database(self, oldest_dsn: str) -> AsyncIterator[Database]:
        async with Database(oldest_dsn) as database:
            yield database


@at_full_count
async def test_the_oldest_version_is_15(oldest_dsn: str) -> None:
    connection = await asyncpg.connect(oldest_dsn)
    assert connection.get_server_version().major == 15
    await connection.close()


@at_full_count
async def test_read_models_and_roles_on_the_oldest_version(oldest_dsn: str) -> None:
    async with Database(oldest_dsn) as database:
        store = PostgresEventStore(database)
        await place(store, 20)
        for projection in (UnitsOrdered, OrderLines):
            await rebuild(database, store, registry(), projection)
        async with database.connection() as connection:
            await apply_roles(connection, Roles.named("oldest"))
            await connection.execute("CREATE ROLE oldest_login LOGIN IN ROLE oldest_writer")
    parts = urlsplit(oldest_dsn)
    async with Database(parts._replace(netloc=f"oldest_login@{parts.netloc.rsplit('@')[-1]}").geturl()) as database:
        assert await append(PostgresEventStore(database), stream_name="order-7") > 0


# -- no superuser anywhere


@pytest.fixture
async def plain_dsn(headwater_databases: MigratedDatabases) -> AsyncIterator[str]:
    """The address of an empty database, for a login that owns it and nothing else."""
    dsn = await asyncio.to_thread(headwater_databases.create, migrated=False)
    parts, owner = urlsplit(dsn), f"headwater_test_{uuid4().hex[:10]}"
    await asyncio.to_thread(headwater_databases._administer, f"CREATE ROLE {owner} LOGIN")
    await asyncio.to_thread(headwater_databases._administer, f'ALTER DATABASE "{parts.path[1:]}" OWNER TO {owner}')
    yield parts._replace(netloc=f"{owner}@{parts.netloc.rsplit('@')[-1]}").geturl()
    await asyncio.to_thread(headwater_databases.drop, dsn)
    await asyncio.to_thread(headwater_databases._administer, f"DROP ROLE {owner}")


class TestPlainOwner(EventStoreConformance):
    joins_transactions = True

    @pytest.fixture
    async def database(self, plain_dsn: str) -> AsyncIterator[Database]:
        async with Database(plain_dsn) as database:
            async with database.connection() as connection:
                assert not await connection.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
                await apply_migrations(connection)
            yield database


async def test_a_server_that_does_not_say_who_it_is_keeps_its_epoch(plain_dsn: str, postgres_server: str) -> None:
    """Some managed servers refuse pg_control_system and the functions of the write-ahead log to everybody."""
    admin = await asyncpg.connect(urlsplit(postgres_server)._replace(path=urlsplit(plain_dsn).path).geturl())
    async with Database(plain_dsn) as database:
        async with database.connection() as connection:
            await apply_migrations(connection)
        store = PostgresEventStore(database)
        told = await store.identity()
        refused = ("pg_control_system()", "pg_current_wal_lsn()", "pg_walfile_name(pg_lsn)")
        for function in refused:
            await admin.execute(f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC")
        async with database.connection() as connection:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await asyncpg.Connection.fetchval(connection._con, "SELECT system_identifier FROM pg_control_system()")  # type: ignore[attr-defined]
        assert await store.identity() == told
        await append(store, count=2)
        # The database is still known, so a copy of it opens an epoch all the same.
        await admin.execute("UPDATE headwater.log_epochs SET database_oid = 1")
        assert [(epoch.epoch, epoch.began_after) for epoch in (await store.identity()).epochs] == [(1, 0), (2, 2)]
        assert len((await store.identity()).epochs) == 2
        await admin.execute("DELETE FROM headwater.log_epochs")
        assert [epoch.epoch for epoch in (await store.identity()).epochs] == [1]
        assert [epoch.epoch for epoch in (await store.identity()).epochs] == [1]
    await admin.close()
