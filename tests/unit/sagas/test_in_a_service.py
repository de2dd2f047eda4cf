"""A saga on a whole service in memory: through the consumer, with its deadlines on the test's clock."""

from __future__ import annotations

from headwater import Context, Service
from headwater.testing import FakeClock, memory_service
from tests.unit.sagas.orders import (
    OrderCancelled,
    OrderFulfilment,
    OrderPlaced,
    PaymentRefunded,
    RefundPayment,
    ReleaseStock,
    ReserveStock,
    StockReleased,
    StockReserved,
)


async def test_a_saga_and_those_it_commands_in_one_service() -> None:
    service, clock = Service("orders"), FakeClock()
    service.saga(OrderFulfilment)
    service.events.register(OrderCancelled)  # other tests have classes of this name

    @service.on(ReserveStock)
    async def reserve(event: ReserveStock, context: Context) -> None:
        await context.append(f"reservation-{event.order_id}", StockReserved(order_id=event.order_id))

    @service.on(ReleaseStock)
    async def release(event: ReleaseStock, context: Context) -> None:
        await context.append(f"reservation-{event.order_id}", StockReleased(order_id=event.order_id))

    @service.on(RefundPayment)
    async def refund(event: RefundPayment, context: Context) -> None:
        await context.append(f"paid-{event.order_id}", PaymentRefunded(order_id=event.order_id))

    async with memory_service(service, clock=clock) as memory:
        await service.store.append("order-1", [OrderPlaced(order_id="1")], expected_version=0)
        await memory.settle()
        assert memory.stream("order-1")[1:] == ()
        await clock.advance(31)
        await memory.settle()
        assert memory.stream("order-1")[1:] == (OrderCancelled(order_id="1", reason="not paid in time"),)
        assert memory.dead_letters == ()
        assert (await service.sagas.get(OrderFulfilment, "1")).status == "compensated"
