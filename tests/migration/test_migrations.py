"""Migrations: repeatable, alone at work, the same by hand, and a mismatch that is noticed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from headwater.errors import MigrationNeeded
from headwater.eventstore import PostgresEventStore
from headwater.messages import ANY, NewEvent
from headwater.postgres import (
    Database,
    apply_migrations,
    load_migrations,
    migration_script,
    migration_status,
    require_current_schema,
)
from tools.dump_schema import dump_schema

NAMES = tuple(migration.name for migration in load_migrations())


@pytest.fixture
async def empty(empty_postgres_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(empty_postgres_dsn)
    yield connection
    connection.terminate()


@pytest.fixture
async def migrated(postgres_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(postgres_dsn)
    yield connection
    connection.terminate()


def test_migrations_are_numbered_without_holes_and_say_their_phase() -> None:
    assert [int(name[:4]) for name in NAMES] == list(range(1, len(NAMES) + 1))
    assert all(name[5:].startswith(("expand_", "contract_")) for name in NAMES)


async def test_migrating_twice_applies_once(empty: asyncpg.Connection) -> None:
    assert tuple(migration.name for migration in await apply_migrations(empty)) == NAMES
    assert await apply_migrations(empty) == ()
    status = await migration_status(empty)
    assert (status.applied, status.is_current, status.explain()) == (NAMES, True, "")
    await require_current_schema(empty)


async def test_migrators_at_once_apply_once(empty_postgres_dsn: str) -> None:
    connections = [await asyncpg.connect(empty_postgres_dsn) for _ in range(6)]
    applied = await asyncio.gather(*(apply_migrations(connection) for connection in connections))
    assert sorted(len(migrations) for migrations in applied) == [0] * 5 + [len(NAMES)]
    for connection in connections:
        await connection.close()


async def test_script_run_by_hand_equals_applying(empty: asyncpg.Connection, empty_postgres_dsn: str, postgres_dsn: str) -> None:
    async with empty.transaction():
        await empty.execute(migration_script((await migration_status(empty)).pending))
    await require_current_schema(empty)
    assert await apply_migrations(empty) == ()
    assert dump_schema(empty_postgres_dsn) == dump_schema(postgres_dsn)


async def test_failed_migration_leaves_nothing(empty: asyncpg.Connection) -> None:
    await empty.execute("CREATE SCHEMA headwater; CREATE TABLE headwater.events (mine int)")
    with pytest.raises(asyncpg.DuplicateTableError):
        await apply_migrations(empty)
    assert await empty.fetchval("SELECT to_regclass('headwater.streams') IS NULL AND to_regclass('headwater.migrations') IS NULL")


async def test_database_without_schema_is_refused_with_what_to_run(empty: asyncpg.Connection, empty_postgres_dsn: str) -> None:
    with pytest.raises(MigrationNeeded, match="headwater migrate"):
        await require_current_schema(empty)
    async with Database(empty_postgres_dsn) as database:
        store = PostgresEventStore(database)
        with pytest.raises(MigrationNeeded, match="headwater migrate"):
            await store.append("order-1", [NewEvent("T", "{}")], expected_version=ANY)
        with pytest.raises(MigrationNeeded, match="headwater migrate"):
            await store.read_log(after=0)
        with pytest.raises(MigrationNeeded, match="headwater migrate"):
            await store.stream_version("order-1")


async def test_missing_migration_is_refused(migrated: asyncpg.Connection) -> None:
    await migrated.execute("DELETE FROM headwater.migrations WHERE name = $1", NAMES[-1])
    with pytest.raises(MigrationNeeded, match=rf"{NAMES[-1]}.*headwater migrate"):
        await require_current_schema(migrated)


async def test_migration_applied_from_other_text_is_refused(migrated: asyncpg.Connection) -> None:
    await migrated.execute("UPDATE headwater.migrations SET checksum = 'other' WHERE name = $1", NAMES[0])
    with pytest.raises(MigrationNeeded, match=f"{NAMES[0]}.*other text"):
        await require_current_schema(migrated)
    with pytest.raises(MigrationNeeded, match="other text"):
        await apply_migrations(migrated)


@pytest.mark.parametrize(("name", "works"), [("9999_expand_future", True), ("9999_contract_future", False)])
async def test_newer_database_works_until_something_was_taken_away(migrated: asyncpg.Connection, name: str, works: bool) -> None:
    await migrated.execute("INSERT INTO headwater.migrations (name, checksum) VALUES ($1, 'x')", name)
    if works:
        await require_current_schema(migrated)
    else:
        with pytest.raises(MigrationNeeded, match="newer Headwater"):
            await require_current_schema(migrated)
