"""Connections beside the store's own, for what happens in somebody else's transaction."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

import asyncpg
import pytest

from headwater.postgres import Database


@pytest.fixture
async def other(postgres_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection of somebody else."""
    connection = await asyncpg.connect(postgres_dsn)
    yield connection
    connection.terminate()


@pytest.fixture
async def writer_role(database: Database) -> AsyncIterator[str]:
    """A role without any right of its own; roles belong to the whole server, so it goes with the test."""
    name = f"headwater_test_{uuid.uuid4().hex[:12]}"
    async with database.connection() as connection:
        await connection.execute(f"CREATE ROLE {name}")
        yield name
        await connection.execute(f"DROP OWNED BY {name}")
        await connection.execute(f"DROP ROLE {name}")
