"""Stories told with a crash at each step."""

from __future__ import annotations

from datetime import timedelta

import pytest

from headwater import Context, Event, Service
from headwater.bus import Firing
from headwater.errors import UsageError
from headwater.testing import FakeClock, crash_at_every_step
from headwater.testing.memory_service import MemoryService
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
from tests.unit.testing.shop import ItemLogged, ItemOrdered, ItemReserved, ItemShipped, counting_shop, right_shop


async def test_right_handlers_survive_a_crash_at_every_step() -> None:
    service, told = right_shop(), list[int]()

    async def story(memory: MemoryService) -> None:
        for number in range(2):
            await memory.store.append("basket-chai", [ItemOrdered(number=number, sku="chai")], expected_version=number)
        await memory.settle()
        assert memory.stream("reserved-chai") == tuple(ItemReserved(number=number, sku="chai") for number in range(2))
        assert memory.stream("shipped-chai") == tuple(ItemShipped(number=number) for number in range(2))
        assert memory.stream("logged-chai") == tuple(ItemLogged(number=number) for number in range(2))
        told.append(memory.chaos.crashes + memory.chaos.lost_answers)

    steps = await crash_at_every_step(service, story)
    # Six appends and two reads; and each of at least three commits is two steps, of which the second is told twice.
    assert steps >= 6 + 2 + 2 * 3
    assert told[0] == 0
    assert len(told) > steps + 3
    assert set(told[1:]) == {1}


async def test_an_effect_outside_the_transaction_is_found_out_and_the_step_is_named() -> None:
    counted = list[int]()
    service = counting_shop(counted)

    async def story(memory: MemoryService) -> None:
        counted.clear()
        await memory.store.append("basket-chai", [ItemOrdered(number=1, sku="chai")], expected_version=0)
        await memory.settle()
        assert counted == [1]

    with pytest.raises(AssertionError) as caught:
        await crash_at_every_step(service, story)
    assert caught.value.__notes__ == ["a crash at step 1 of 2, commit"]


async def test_a_handler_that_swallows_everything_dies_all_the_same() -> None:
    """Even one that catches BaseException, and goes on: nothing of a dead member is committed."""
    service = Service("shop")

    @service.on(ItemOrdered)
    async def stubborn(event: ItemOrdered, context: Context) -> None:
        try:
            await context.append("reserved-chai", ItemReserved(number=event.number, sku="chai"))
        except BaseException:  # noqa: BLE001 - a careless user's
            await context.append("reserved-chai", ItemReserved(number=-1, sku="swallowed"))

    async def story(memory: MemoryService) -> None:
        await memory.store.append("basket-chai", [ItemOrdered(number=1, sku="chai")], expected_version=0)
        await memory.settle()
        assert memory.stream("reserved-chai") == (ItemReserved(number=1, sku="chai"),)

    assert await crash_at_every_step(service, story) == 3


async def test_a_saga_compensates_once_wherever_it_is_cut() -> None:
    service = Service("orders")
    service.saga(OrderFulfilment)
    service.events.register(OrderCancelled)

    @service.on(ReserveStock)
    async def reserve(event: ReserveStock, context: Context) -> None:
        await context.append(f"reservation-{event.order_id}", StockReserved(order_id=event.order_id))

    @service.on(ReleaseStock)
    async def release(event: ReleaseStock, context: Context) -> None:
        await context.append(f"reservation-{event.order_id}", StockReleased(order_id=event.order_id))

    @service.on(RefundPayment)
    async def refund(event: RefundPayment, context: Context) -> None:
        await context.append(f"paid-{event.order_id}", PaymentRefunded(order_id=event.order_id))

    async def story(memory: MemoryService) -> None:
        assert isinstance(memory.clock, FakeClock)
        await memory.given("order-1", OrderPlaced(order_id="1"))
        await memory.clock.advance(31)
        await memory.settle()
        assert memory.stream("reservation-1") == (StockReserved(order_id="1"), StockReleased(order_id="1"))
        assert memory.stream("paid-1") == (PaymentRefunded(order_id="1"),)
        assert memory.stream("order-1")[1:] == (OrderCancelled(order_id="1", reason="not paid in time"),)

    assert await crash_at_every_step(service, story, new_clock=FakeClock) > 20


class GetPrice(Event, category="asking"):
    sku: str


class Price(Event, category="price"):
    cents: int


class ReportDue(Event, category="report"):
    hour: int


async def test_replies_messages_for_later_and_schedules_repeat_nothing() -> None:
    service = Service("prices")

    @service.on(GetPrice)
    async def tell(event: GetPrice, context: Context) -> None:
        await context.reply(Price(cents=len(event.sku)))
        await context.publish(ItemShipped(number=1), key=event.sku, deliver_after=timedelta(seconds=5))

    @service.every("0 * * * *")
    def hourly(firing: Firing) -> ReportDue:
        return ReportDue(hour=firing.due_at.hour)

    @service.on(ItemShipped)
    async def note(event: ItemShipped, context: Context) -> None:
        await context.append("logged-1", ItemLogged(number=event.number))

    @service.on(ReportDue)
    async def report(event: ReportDue, context: Context) -> None:
        await context.append("logged-2", ItemLogged(number=event.hour))

    async def story(memory: MemoryService) -> None:
        assert isinstance(memory.clock, FakeClock)
        # The fake clock stands still, so the request has all the time there is.
        assert await service.events.request(GetPrice(sku="tea"), Price) == Price(cents=3)
        await memory.settle()
        await memory.clock.advance(5)
        await memory.settle()
        assert memory.stream("logged-1") == (ItemLogged(number=1),)
        await memory.clock.advance(3600)
        await memory.settle()
        assert memory.stream("logged-2") == (ItemLogged(number=1),)
        assert len([one for one in memory.recorded if one.category.startswith("replies.")]) == 1
        assert len(memory.recorded) == 6

    assert await crash_at_every_step(service, story, new_clock=FakeClock) >= 12


async def test_a_story_without_steps_is_refused() -> None:
    async def story(memory: MemoryService) -> None:
        await memory.settle()

    with pytest.raises(UsageError, match="0 steps"):
        await crash_at_every_step(right_shop(), story)
