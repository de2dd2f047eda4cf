"""The same service for two tenants of one database and one broker, at once: nobody sees anything of the other's."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import asyncpg

from headwater.config import Settings
from headwater.postgres import Database, apply_migrations
from headwater.service import Service
from tests.integration.tenants.shop import LinesPerSku, ShopReminder, UnitsPerSku, shop, work

SKUS = {"one": ("chai", "tofu"), "two": ("chai", "miso", "mate")}


async def tenant(dsn: str, kafka: str) -> Service:
    """A service over a log of its own, in a schema and with topics that no other test has."""
    settings = Settings(postgres=dsn, kafka=kafka, log_schema=f"t{uuid4().hex[:10]}", topic_partitions=2)
    async with Database(dsn, schema=settings.log_schema) as database, database.connection() as connection:
        await apply_migrations(connection)
    return shop(settings)


async def seen(service: Service) -> dict[str, Any]:
    """All that a tenant's own rooms can tell."""
    events = (await service.store.read_log(after=0, limit=1000)).events
    async with service.query(LinesPerSku, consistency="strong") as connection:
        lines = {row["sku"]: row["count"] for row in await connection.fetch("SELECT sku, count FROM lines")}
    return {
        "streams": {event.stream_name for event in events},
        "units": {row.units async for row in service.read_all(UnitsPerSku)},
        "unit_count": len([row async for row in service.read_all(UnitsPerSku)]),
        "lines": lines,
        "sagas": {(saga.key, saga.status.value) for saga in await service.sagas.list(saga_type=ShopReminder)},
        "letters": [(letter.stream_name, letter.partition.topic) for letter in await service.dead_letters.list()],
    }


async def test_two_tenants_over_kafka_never_see_each_other(empty_postgres_dsn: str, kafka_bootstrap: str) -> None:
    first, second = [await tenant(empty_postgres_dsn, kafka_bootstrap) for _ in range(2)]
    async with first, second:
        await asyncio.gather(work(first, *SKUS["one"]), work(second, *SKUS["two"]))
        for service, skus in ((first, SKUS["one"]), (second, SKUS["two"])):
            found = await seen(service)
            prefix = service.database.schema
            assert found == {
                "streams": {"order-poison", *(f"order-{sku}" for sku in skus), *(f"stock-{sku}" for sku in skus)},
                "units": {2},
                "unit_count": len(skus),
                "lines": dict.fromkeys(skus, 1),
                "sagas": {(sku, "completed") for sku in skus},
                "letters": [("order-poison", f"{prefix}.order")],
            }
            assert (await service.verify(UnitsPerSku)).is_equal
            await service.replay("units_per_sku")
            assert (await service.verify(LinesPerSku)).is_equal
        assert await of_database(empty_postgres_dsn, first, second) == set()


async def of_database(dsn: str, *services: Service) -> set[str]:
    """Schemas that belong to none of them: no statement went to a default schema."""
    connection = await asyncpg.connect(dsn)
    rows = await connection.fetch("SELECT nspname FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema$|public$)'")
    await connection.close()
    schemas = [service.database.schema for service in services]
    return {row["nspname"] for row in rows if not any(row["nspname"] == s or row["nspname"].startswith(f"{s}__") for s in schemas)}
