"""One group that notes what it handles, between a real broker and a real database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from headwater.bus import Consumer, Context, DeadLetterIt, DeadLetters, KafkaSource, PostgresEffects, RetryPolicy, Subscriptions
from headwater.eventstore import PostgresEventStore
from headwater.kafka import KafkaSettings
from headwater.messages import Event, EventRegistry
from headwater.outbox import Publisher
from headwater.postgres import Database
from headwater.testing.conformance.bus_bed import working

QUICK = RetryPolicy(attempts_max=3, first_delay_seconds=0.05, delay_factor=2, then=DeadLetterIt())


class Shop:
    """One group on topics of its own."""

    def __init__(self, database: Database, bootstrap: str) -> None:
        self.database, self.bootstrap = database, bootstrap
        self.category = f"order{uuid4().hex[:8]}"
        self.group = f"shop-{self.category}"
        self.store = PostgresEventStore(database)
        self.subscriptions = Subscriptions()
        self.placed: type[Any] = type(
            "OrderPlaced", (Event,), {"__annotations__": {"sku": str}, "__module__": __name__}, category=self.category
        )
        self.dead_letters = DeadLetters(database, group=self.group)

    def member(self, **options: Any) -> Consumer:
        return Consumer(
            group=self.group,
            subscriptions=self.subscriptions,
            source=KafkaSource(KafkaSettings.parse(self.bootstrap), group=self.group, session_timeout_seconds=6),
            effects=PostgresEffects(self.database, self.store),
            publisher=Publisher(self.store, EventRegistry([StockReserved])),
            **{"retry_policy": QUICK, **options},
        )

    def fact(self, stream: object, sku: str) -> tuple[str, Event]:
        return f"{self.category}-{stream}", self.placed(sku=sku)

    @asynccontextmanager
    async def running(self, **options: Any) -> AsyncIterator[Consumer]:
        async with working(self.member(**options)) as consumer:
            yield consumer

    async def skus(self) -> list[str]:
        async with self.database.connection() as connection:
            return [row["sku"] for row in await connection.fetch("SELECT sku FROM effects ORDER BY id")]

    async def applied(self) -> int:
        async with self.database.connection() as connection:
            total = await connection.fetchval("SELECT sum(next_offset) FROM headwater.consumer_positions WHERE group_name = $1", self.group)
        return int(total or 0)


class StockReserved(Event):
    sku: str


def note(shop: Shop) -> None:
    @shop.subscriptions.on(shop.placed)
    async def noting(event: Any, context: Context) -> None:
        await context.connection.execute("INSERT INTO effects (stream, sku) VALUES ($1, $2)", context.stream_name, event.sku)
