"""The pool, and what its failures become."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import asyncpg
import pytest

from headwater.embedded import EmbeddedPostgres
from headwater.errors import StorageError, StorageUnavailable, StoreNotOpen, TransactionConflict, UsageError
from headwater.eventstore import PostgresEventStore
from headwater.messages import ANY, NewEvent
from headwater.postgres import Database
from headwater.testing import MigratedDatabases


@pytest.fixture
def server() -> Iterator[EmbeddedPostgres]:
    """A server of this test's own, to break."""
    with EmbeddedPostgres() as started:
        yield started


async def test_database_is_opened_once_and_closed_twice_without_harm(postgres_dsn: str) -> None:
    database = Database(postgres_dsn)
    with pytest.raises(StoreNotOpen, match="async with"):
        async with database.connection():
            pass
    await database.open()
    await database.open()
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT current_setting('application_name')") == "headwater"
    await database.close()
    await database.close()
    with pytest.raises(StoreNotOpen):
        await PostgresEventStore(database).horizon()


async def test_nobody_at_the_address_is_said_without_the_password() -> None:
    with pytest.raises(StorageUnavailable, match=r"me:\*\*\*@127\.0\.0\.1:1/db.*") as caught:
        await Database("postgresql://me:secret@127.0.0.1:1/db").open()
    assert "secret" not in str(caught.value)
    assert "HEADWATER_POSTGRES" in str(caught.value)


@pytest.mark.parametrize("dsn", ["nonsense", "mysql://127.0.0.1/db", "postgresql://127.0.0.1:port/db", "postgresql://127.0.0.1:99999/db"])
async def test_address_that_is_none_says_how_to_write_one(dsn: str) -> None:
    with pytest.raises((UsageError, StorageUnavailable), match=r"postgresql://user:password@host:port/database|HEADWATER_POSTGRES"):
        await Database(dsn).open()


async def test_missing_database_is_said(postgres_server: str) -> None:
    dsn = postgres_server.rsplit("/", 1)[0] + "/there_is_none"
    with pytest.raises(UsageError, match=r"there_is_none.*HEADWATER_POSTGRES"):
        await Database(dsn).open()


async def test_transaction_rolls_back_on_any_exception(database: Database) -> None:
    async with database.connection() as connection:
        await connection.execute("CREATE TABLE things (id int)")
    with pytest.raises(asyncio.CancelledError):
        async with database.transaction() as connection:
            await connection.execute("INSERT INTO things VALUES (1)")
            raise asyncio.CancelledError
    async with database.transaction() as connection:
        assert await connection.fetchval("SELECT count(*) FROM things") == 0
        assert await connection.fetchval("SHOW transaction_isolation") == "read committed"


async def test_errors_of_the_callers_own_statements_keep_their_kind(database: Database) -> None:
    """Only what concerns Headwater is translated: a handler's own mistakes look as they always do."""
    async with database.connection() as connection:
        for statement, error in (
            ("SELECT 1 / 0", asyncpg.DivisionByZeroError),
            ("SELECT 99999999999::int", asyncpg.NumericValueOutOfRangeError),
            ("SELECT '{'::jsonb", asyncpg.InvalidTextRepresentationError),
            ("SELECT * FROM nowhere", asyncpg.UndefinedTableError),
        ):
            with pytest.raises(error):
                async with database.connection() as another:
                    await another.fetch(statement)
        with pytest.raises(TransactionConflict):
            async with database.connection() as another:
                await another.execute("DO $$ BEGIN RAISE serialization_failure; END $$")
        assert await connection.fetchval("SELECT 1") == 1


async def test_terminated_connection_is_replaced(database: Database) -> None:
    with pytest.raises(StorageUnavailable, match="repeat the call"):
        async with database.connection() as connection:
            await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT 1") == 1


async def test_server_that_went_away_is_said_and_found_again(server: EmbeddedPostgres) -> None:
    dsn = await asyncio.to_thread(MigratedDatabases(server.dsn).create)
    async with Database(dsn) as database:
        store, event = PostgresEventStore(database), NewEvent("T", "{}")
        await store.append("order-1", [event], expected_version=0)
        await asyncio.to_thread(server.kill)
        with pytest.raises(StorageUnavailable) as caught:
            await store.append("order-1", [event], expected_version=0)
        assert caught.value.retryable
        await asyncio.to_thread(server.start)
        result = await store.append("order-1", [event], expected_version=ANY)
        assert (result.version, await store.stream_version("order-1")) == (1, 1), "the same event id is stored once"


async def test_refused_login_is_said(postgres_server: str) -> None:
    host = postgres_server.rsplit("@", maxsplit=1)[-1]
    with pytest.raises((StorageError, UsageError), match="HEADWATER_POSTGRES"):
        await Database(f"postgresql://nobody_of_this_name:secret@{host}").open()
