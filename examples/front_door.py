"""Headwater's front door: an event, a handler, a read model and a service, in one file.

Run it alone: `python front_door.py` starts PostgreSQL and Kafka embedded where HEADWATER_POSTGRES and HEADWATER_KAFKA name none, places three
orders, says what came of them, and ends. Or let it serve: `headwater run front_door:service`.
"""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

from headwater import Context, Event, Projection, Service, on

service = Service("shop")  # HEADWATER_POSTGRES, HEADWATER_KAFKA, or embedded


class OrderPlaced(Event):  # a frozen pydantic model; its name is its type
    order_id: UUID
    sku: str
    quantity: int


class StockReserved(Event):
    order_id: UUID


@service.on(OrderPlaced)  # effects and position commit together
async def reserve(event: OrderPlaced, context: Context) -> None:
    await context.append(f"stock-{event.sku}", StockReserved(order_id=event.order_id))


@service.projection  # a fold, kept in Postgres, rebuilt by `headwater replay units_ordered`
class UnitsOrdered(Projection, key="sku"):
    units: int = 0

    @on(OrderPlaced)
    def ordered(self, event: OrderPlaced) -> None:
        self.units += event.quantity


async def main() -> None:
    async with service:  # in a script, a test, or a web framework's lifespan
        first, second, third = uuid4(), uuid4(), uuid4()
        placed = [OrderPlaced(order_id=first, sku="chai", quantity=3)]
        result = await service.store.append(f"order-{first}", placed, expected_version=0)
        print(f"appended order {first} at version {result.version}, position {result.global_position} of the log")
        await service.store.append(f"order-{second}", [OrderPlaced(order_id=second, sku="chang", quantity=5)], expected_version=0)
        await service.events.publish("OrderPlaced", {"order_id": third, "sku": "chai", "quantity": 2})  # by name and data, checked
        print(f"published order {third} by name")

        row = await service.read(UnitsOrdered, "chai", consistency="causal")  # waits until it shows what was appended above
        print(f"the read model shows {row.units if row else 0} units of chai ordered")

        reserved = await until_reserved("chai", 2)
        print(f"the handler reserved stock for {len(reserved)} orders of chai")


async def until_reserved(sku: str, order_count: int) -> list[str]:
    """The events of the stock's stream, once there are so many."""
    async with asyncio.timeout(30):
        while True:
            events = [recorded.data async for recorded in service.store.read_stream(f"stock-{sku}")]
            if len(events) >= order_count:
                return events
            await asyncio.sleep(0.05)


if __name__ == "__main__":
    asyncio.run(main())
