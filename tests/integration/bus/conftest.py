"""The worlds that messages for later live in, and a shop between a real broker and a real database."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from headwater.postgres import Database
from headwater.testing import MigratedDatabases
from tests.integration.bus.feeding import Feeder
from tests.integration.bus.later_worlds import MemoryWorld, PostgresWorld, World
from tests.integration.bus.shop import Shop


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


@pytest.fixture
async def shop(database: Database, kafka_bootstrap: str) -> Shop:
    shop = Shop(database, kafka_bootstrap)
    async with database.connection() as connection:
        await connection.execute("CREATE TABLE effects (id bigint GENERATED ALWAYS AS IDENTITY, stream text, sku text)")
        await connection.execute("CREATE TABLE strict (sku text CONSTRAINT strict_sku_key UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    return shop


@pytest.fixture
async def feeder(shop: Shop) -> AsyncIterator[Feeder]:
    async with Feeder(shop.bootstrap, [shop.category]) as feeder:
        yield feeder
