"""The worlds that messages for later live in."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from headwater.postgres import Database
from headwater.testing import MigratedDatabases
from tests.integration.bus.later_worlds import MemoryWorld, PostgresWorld, World


@pytest.fixture(params=["memory", "postgres"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    if request.param == "memory":
        yield MemoryWorld()
        return
    databases: MigratedDatabases = request.getfixturevalue("headwater_databases")
    with databases.fresh() as dsn:
        async with Database(dsn) as database:
            found = PostgresWorld(database)
            yield found
            await found.personal.close()
