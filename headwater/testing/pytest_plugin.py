"""Fixtures for users' tests, found by pytest on its own. Nothing heavy is imported before a fixture is asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from headwater.testing import MemoryEventStore, MigratedDatabases


@pytest.fixture
def headwater_store() -> MemoryEventStore:
    """An empty event store in memory."""
    from headwater.testing import MemoryEventStore

    return MemoryEventStore()


@pytest.fixture(scope="session")
def headwater_postgres_server() -> Iterator[str]:
    """The address of a PostgreSQL server: HEADWATER_POSTGRES, or an embedded one that lives as long as the tests."""
    if configured := os.environ.get("HEADWATER_POSTGRES"):
        yield configured
        return
    from headwater.embedded import EmbeddedPostgres

    # Tests make and drop databases all the time, and nobody needs them after a power cut.
    with EmbeddedPostgres(settings={"fsync": "off", "full_page_writes": "off"}) as server:
        yield server.dsn


@pytest.fixture(scope="session")
def headwater_databases(headwater_postgres_server: str) -> Iterator[MigratedDatabases]:
    """Makes as many fresh databases as a test wants."""
    from headwater.testing import MigratedDatabases

    databases = MigratedDatabases(headwater_postgres_server)
    try:
        yield databases
    finally:
        databases.close()


@pytest.fixture
def headwater_postgres(headwater_databases: MigratedDatabases) -> Iterator[str]:
    """The address of a fresh database with Headwater's schema, dropped after the test."""
    with headwater_databases.fresh() as dsn:
        yield dsn


@pytest.fixture(scope="session")
def headwater_kafka() -> Iterator[str]:
    """The address of a Kafka broker: HEADWATER_KAFKA, or an embedded one that lives as long as the tests."""
    if configured := os.environ.get("HEADWATER_KAFKA"):
        yield configured
        return
    from headwater.embedded import EmbeddedKafka

    with EmbeddedKafka() as server:
        yield server.bootstrap
