"""Two logs in one database, which has no log in the default schema: a statement that forgot its tenant fails."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from headwater.eventstore import PostgresEventStore
from headwater.postgres import Database, apply_migrations


async def migrated(dsn: str, schema: str) -> Database:
    """The log in this schema, made and open."""
    database = Database(dsn, schema=schema)
    await database.open()
    async with database.connection() as connection:
        await apply_migrations(connection)
    return database


@pytest.fixture
async def acme(empty_postgres_dsn: str) -> AsyncIterator[Database]:
    database = await migrated(empty_postgres_dsn, "acme")
    yield database
    await database.close()


@pytest.fixture
async def order(empty_postgres_dsn: str, acme: Database) -> AsyncIterator[Database]:
    """A tenant whose name is a word of SQL's own."""
    database = await migrated(empty_postgres_dsn, "order")
    yield database
    await database.close()


@pytest.fixture
def database(acme: Database) -> Database:
    return acme


@pytest.fixture
def store(acme: Database) -> PostgresEventStore:
    return PostgresEventStore(acme)


@pytest.fixture
def others_store(order: Database) -> PostgresEventStore:
    return PostgresEventStore(order)
