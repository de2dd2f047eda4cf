"""Servers and databases for tests. Servers start when the first test asks for one, and live as long as the run.

`HEADWATER_POSTGRES` and `HEADWATER_KAFKA` point the tests at other servers; databases are made there under names of their own.
Helpers without fixtures stand in tests/support.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from headwater.eventstore import PostgresEventStore
from headwater.postgres import Database
from headwater.testing import MigratedDatabases


@pytest.fixture(scope="session")
def postgres_server(headwater_postgres_server: str) -> str:
    """The address of the server that the tests share; never stop or crash it, start an EmbeddedPostgres of your own for that."""
    return headwater_postgres_server


@pytest.fixture(scope="session")
def kafka_server(headwater_kafka: str) -> str:
    """The address of the broker that the tests share; use topic names of your own."""
    return headwater_kafka


@pytest.fixture
def kafka_bootstrap(kafka_server: str) -> str:
    return kafka_server


@pytest.fixture
def postgres_dsn(headwater_postgres: str) -> str:
    """The address of a fresh, migrated database, dropped after the test."""
    return headwater_postgres


@pytest.fixture
def empty_postgres_dsn(headwater_databases: MigratedDatabases) -> Iterator[str]:
    """The address of a fresh database without Headwater's schema."""
    with headwater_databases.fresh(migrated=False) as dsn:
        yield dsn


@pytest.fixture
async def database(postgres_dsn: str) -> AsyncIterator[Database]:
    """A fresh, migrated database, open."""
    async with Database(postgres_dsn) as opened:
        yield opened


@pytest.fixture
async def store(database: Database) -> PostgresEventStore:
    """An event store over `database`."""
    return PostgresEventStore(database)


@pytest.fixture(autouse=True)
def lost_exceptions(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What went wrong in the loop with nobody there to hear it; fails the test. One that loses some on purpose clears the list."""
    lost: list[str] = []

    def keep(_loop: asyncio.BaseEventLoop, context: dict[str, object]) -> None:
        # asyncpg says this of the TLS request of a connection that was being made for a caller who was cancelled; nobody was left to hear it.
        if str(context.get("exception")) == "unexpected connection_lost() call":
            return
        lost.append(f"{context.get('message')}: {context.get('exception')!r} ({context.get('future') or context.get('protocol') or ''})")

    monkeypatch.setattr(asyncio.BaseEventLoop, "default_exception_handler", keep)
    yield lost
    if lost:
        pytest.fail("lost in the event loop: " + "; ".join(lost))
