"""The events and projections that the tests of this folder share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from headwater.eventstore import EventStore
from headwater.messages import ANY, Event, EventRegistry
from headwater.postgres import Connection, Database
from headwater.projections import AnyProjection, Projection, ProjectionRunner, ReadModels, SqlProjection, on


class OrderPlaced(Event):
    sku: str
    quantity: int = 1


class OrderCancelled(Event):
    sku: str
    quantity: int = 1


class OrderNoted(Event):
    """Taken by no projection."""

    text: str = ""


class UnitsOrdered(Projection, key="sku"):
    units: int = 0
    orders: int = 0

    @on(OrderPlaced)
    def ordered(self, event: OrderPlaced) -> None:
        self.units += event.quantity
        self.orders += 1

    @on(OrderCancelled)
    def cancelled(self, event: OrderCancelled) -> None:
        self.units -= event.quantity


class OrderCount(Projection):
    orders: int = 0

    @on(OrderPlaced)
    def ordered(self, event: OrderPlaced) -> None:
        self.orders += 1


class OrderLines(SqlProjection):
    tables = """
        CREATE TABLE lines (number bigint PRIMARY KEY, sku text NOT NULL, quantity int NOT NULL);
        CREATE TABLE totals (sku text PRIMARY KEY, units bigint NOT NULL);
    """

    @on(OrderPlaced)
    async def placed(self, event: OrderPlaced, connection: Connection) -> None:
        await connection.execute("INSERT INTO lines SELECT coalesce(max(number), 0) + 1, $1, $2 FROM lines", event.sku, event.quantity)
        await connection.execute(
            "INSERT INTO totals VALUES ($1, $2) ON CONFLICT (sku) DO UPDATE SET units = totals.units + excluded.units",
            event.sku,
            event.quantity,
        )


def registry() -> EventRegistry:
    return EventRegistry([OrderPlaced, OrderCancelled, OrderNoted])


async def place(store: EventStore, count: int, *, skus: int = 3, per_append: int = 500) -> int:
    """Append that many orders of 1 to 5 pieces; the last position."""
    position = 0
    for start in range(0, count, per_append):
        events = [OrderPlaced(sku=f"sku-{i % skus}", quantity=i % 5 + 1) for i in range(start, min(start + per_append, count))]
        position = (await store.append("order-1", events, expected_version=ANY)).global_position
    return position


def units_of(count: int, *, skus: int = 3) -> dict[str, int]:
    """What `UnitsOrdered` must show after `place(count)`."""
    units: dict[str, int] = {}
    for i in range(count):
        units[f"sku-{i % skus}"] = units.get(f"sku-{i % skus}", 0) + i % 5 + 1
    return units


@asynccontextmanager
async def running(
    database: Database, store: EventStore, projections: Sequence[AnyProjection], *, runners: int = 1
) -> AsyncIterator[ProjectionRunner]:
    """The projections, kept up to date inside the block; fails when a runner ends by itself."""
    made = [ProjectionRunner(database, store, registry(), projections) for _ in range(runners)]
    tasks = [asyncio.create_task(runner.run()) for runner in made]
    try:
        yield made[0]
    finally:
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome


def models(database: Database, store: EventStore) -> ReadModels:
    return ReadModels(database, store, registry())
