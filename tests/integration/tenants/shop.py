"""One service's code, run for several logs at once: a handler, a read model of each kind, a saga with a deadline, and dead letters."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from headwater import Context, Event, NewEvent, Projection, Saga, SagaContext, Service, SqlProjection, on, on_deadline, starts_on
from headwater.config import Settings
from headwater.messages import ANY
from headwater.testing import eventually

DEADLINE_SECONDS = 0.2


class ShopOrder(Event, category="order"):
    sku: str
    quantity: int


class ShopReserved(Event, category="stock"):
    sku: str


class ShopReminded(Event, category="order"):
    sku: str


class ShopBroken(Event, category="order"):
    sku: str


class UnitsPerSku(Projection, key="sku"):
    units: int = 0

    @on(ShopOrder)
    def ordered(self, event: ShopOrder) -> None:
        self.units += event.quantity


class LinesPerSku(SqlProjection):
    tables = "CREATE TABLE lines (sku text PRIMARY KEY, count int NOT NULL)"

    @on(ShopOrder)
    async def ordered(self, event: ShopOrder, connection: Any) -> None:
        await connection.execute("INSERT INTO lines VALUES ($1, 1) ON CONFLICT (sku) DO UPDATE SET count = lines.count + 1", event.sku)


class ShopReminder(Saga, key="sku"):
    @starts_on(ShopOrder)
    async def placed(self, event: ShopOrder, saga: SagaContext) -> None:
        saga.set_deadline("remind", after=timedelta(seconds=DEADLINE_SECONDS))

    @on_deadline("remind")
    async def remind(self, saga: SagaContext) -> None:
        await saga.append(f"order-{saga.key}", ShopReminded(sku=saga.key))
        saga.complete()


def shop(settings: Settings) -> Service:
    """The service, as every tenant runs it."""
    service = Service("shop", settings=settings)
    service.projection(UnitsPerSku)
    service.projection(LinesPerSku)
    service.saga(ShopReminder)

    @service.on(ShopOrder)
    async def reserve(event: ShopOrder, context: Context) -> None:
        await context.append(f"stock-{event.sku}", ShopReserved(sku=event.sku))

    @service.on(ShopBroken)
    async def never_called(event: ShopBroken) -> None:
        raise AssertionError("the event's data cannot be read")

    return service


async def work(service: Service, *skus: str) -> None:
    """Orders of these, and one that nobody can read; returns when all is done that follows from them."""
    for sku in skus:
        await service.store.append(f"order-{sku}", [ShopOrder(sku=sku, quantity=2)], expected_version=0)
    await service.store.append("order-poison", [NewEvent("ShopBroken", '{"sku": 1}')], expected_version=ANY)
    for sku in skus:
        await eventually(lambda sku=sku: _has(service, f"stock-{sku}", 1), timeout=60)
        await eventually(lambda sku=sku: _has(service, f"order-{sku}", 2), timeout=60)
        row = await service.read(UnitsPerSku, sku)
        assert row is not None
        assert row.units == 2
    await eventually(lambda: _letters(service), timeout=60)


async def _has(service: Service, stream_name: str, version: int) -> bool:
    return await service.store.stream_version(stream_name) == version


async def _letters(service: Service) -> bool:
    return await service.dead_letters.count() > 0
