"""A service in memory where everything goes wrong: right handlers stay right, wrong ones are found out."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import pytest

from headwater import Context, Event, Service
from headwater.errors import UsageError
from headwater.testing import Chaos, FakeClock, memory_service
from headwater.testing.chaos import ChaosCounts
from headwater.testing.memory_service import MemoryService
from tests.support import FULL
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
from tests.unit.testing.shop import SKUS, ItemLogged, ItemOrdered, ItemReserved, ItemShipped, counting_shop, hasty_shop, order, right_shop

SEEDS = range(2_000 if FULL else 50)
ORDERS = 9


def numbers(memory: MemoryService, stream_name: str) -> list[int]:
    return [event.number for event in memory.stream(stream_name) if isinstance(event, (ItemLogged, ItemReserved, ItemShipped))]


async def test_right_handlers_do_everything_once_and_in_order_whatever_happens() -> None:
    happened: Counter[str] = Counter()
    for seed in SEEDS:
        service = right_shop()
        async with memory_service(service, chaos=Chaos(seed, members=1 + seed % 3)) as memory:
            await order(service, ORDERS)
            await memory.settle()
            for place, sku in enumerate(SKUS):
                for category in ("reserved", "shipped", "logged"):
                    assert numbers(memory, f"{category}-{sku}") == list(range(place, ORDERS, len(SKUS))), f"{seed=} {category} {sku}"
            counts = memory.chaos
        happened.update({name: getattr(counts, name) for name in ChaosCounts.__slots__})
    assert happened.pop("lost_answers") >= len(SEEDS) / 5
    assert min(happened.values()) >= len(SEEDS), happened


async def test_an_effect_outside_the_transaction_is_found_out() -> None:
    found_out = 0
    for seed in range(10):
        counted = list[int]()
        service = counting_shop(counted)
        async with memory_service(service, chaos=Chaos(seed)) as memory:
            await order(service, ORDERS)
            await memory.settle()
        assert set(counted) == set(range(ORDERS)), "at least once, always"
        found_out += len(counted) > ORDERS
    assert found_out >= 5


async def test_an_append_that_goes_past_the_transaction_is_found_out() -> None:
    found_out = 0
    for seed in range(10):
        service = hasty_shop()
        async with memory_service(service, chaos=Chaos(seed)) as memory:
            await order(service, ORDERS)
            await memory.settle()
            found_out += sum(len(memory.stream(f"reserved-{sku}")) for sku in SKUS) > ORDERS
    assert found_out >= 5


@pytest.mark.parametrize("one", ["crash", "rebalance"])
async def test_one_thing_going_wrong_alone_repeats_handlers_and_no_effect(one: str) -> None:
    counted = list[int]()
    service = counting_shop(counted)

    @service.on(ItemOrdered)
    async def reserve(event: ItemOrdered, context: Context) -> None:
        await context.append(f"reserved-{event.sku}", ItemReserved(number=event.number, sku=event.sku))

    nothing = {"duplicate": 0.0, "delay": 0.0, "crash": 0.0, "rebalance": 0.0}
    async with memory_service(service, chaos=Chaos(3, **(nothing | {one: 0.3}))) as memory:
        await order(service, ORDERS)
        await memory.settle()
        assert sum(len(memory.stream(f"reserved-{sku}")) for sku in SKUS) == ORDERS
        assert (memory.chaos.crashes > 0) == (one == "crash")
        assert (memory.chaos.rebalances > 0) == (one == "rebalance")
        assert memory.chaos.duplicates == memory.chaos.delays == 0
    assert len(counted) > ORDERS


async def test_duplicates_are_dropped_and_handlers_do_not_see_them() -> None:
    counted = list[int]()
    service = counting_shop(counted)
    async with memory_service(service, chaos=Chaos(1, duplicate=0.9, delay=0, crash=0, rebalance=0)) as memory:
        await order(service, ORDERS)
        await memory.settle()
        assert memory.chaos.duplicates >= ORDERS / 2
        ends = [memory._parts.topics.range_of(partition).end for partition in memory._parts.topics.partitions(["basket"])]
        assert sum(ends) == ORDERS + memory.chaos.duplicates
    assert sorted(counted) == list(range(ORDERS))


async def test_keys_overtake_each_other_and_none_itself() -> None:
    orders = set[tuple[int, ...]]()
    for seed in range(10):
        counted = list[int]()
        service = counting_shop(counted)
        async with memory_service(service, chaos=Chaos(seed, crash=0, rebalance=0)) as memory:
            await order(service, ORDERS)
            await memory.settle()
        for place in range(len(SKUS)):
            of_one = [number for number in counted if number % len(SKUS) == place]
            assert of_one == sorted(of_one)
        orders.add(tuple(counted))
    assert len(orders) > 5


async def test_a_seed_goes_the_same_way_again() -> None:
    async def tell(seed: int) -> tuple[list[int], ChaosCounts]:
        counted = list[int]()
        service = counting_shop(counted)

        @service.on(ItemOrdered)
        async def reserve(event: ItemOrdered, context: Context) -> None:
            await context.append(f"reserved-{event.sku}", ItemReserved(number=event.number, sku=event.sku))

        async with memory_service(service, chaos=Chaos(seed)) as memory:
            await order(service, ORDERS)
            await memory.settle()
            return counted, memory.chaos

    told = [await tell(seed) for seed in (1, 2, 3)]
    assert [await tell(seed) for seed in (1, 2, 3)] == told
    assert len({tuple(counted) for counted, _ in told}) == 3


async def test_a_message_that_fails_is_a_dead_letter_once_under_chaos_too() -> None:
    for seed in range(10):
        service = right_shop()
        async with memory_service(service, chaos=Chaos(seed)) as memory:
            await service.store.append("basket-poison", [ItemOrdered(number=0, sku="poison")], expected_version=0)
            await order(service, ORDERS)
            await memory.settle(allow_dead_letters=True)
            assert [letter.handler_name for letter in memory.dead_letters] == ["right_shop.<locals>.reserve"]
            assert numbers(memory, "shipped-chai") == list(range(0, ORDERS, len(SKUS)))


async def test_sagas_compensate_once() -> None:
    crashes = 0
    for seed in range(8):
        service, clock = Service("orders"), FakeClock()
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

        async with memory_service(service, clock=clock, chaos=Chaos(seed, crash=0.2)) as memory:
            await memory.given("order-1", OrderPlaced(order_id="1"))
            await clock.advance(31)
            await memory.settle()
            assert memory.stream("order-1")[1:] == (OrderCancelled(order_id="1", reason="not paid in time"),)
            assert memory.stream("reservation-1") == (StockReserved(order_id="1"), StockReleased(order_id="1"))
            assert (await service.sagas.get(OrderFulfilment, "1")).status == "compensated"
            crashes += memory.chaos.crashes
    assert crashes > 8


class GetPrice(Event, category="asking"):
    sku: str


class Price(Event, category="price"):
    cents: int


async def test_request_and_reply_and_messages_for_later_repeat_nothing() -> None:
    for seed in range(10):
        service, clock = Service("prices"), FakeClock()

        @service.on(GetPrice)
        async def tell(event: GetPrice, context: Context) -> None:
            await context.reply(Price(cents=len(event.sku)))
            await context.publish(ItemShipped(number=1), key=event.sku, deliver_after=timedelta(seconds=5))

        @service.on(ItemShipped)
        async def note(event: ItemShipped, context: Context) -> None:
            await context.append("logged-1", ItemLogged(number=event.number))

        async with memory_service(service, clock=clock, chaos=Chaos(seed, crash=0.2)) as memory:
            # The fake clock stands still, so the request has all the time there is.
            assert await service.events.request(GetPrice(sku="tea"), Price) == Price(cents=3)
            await memory.settle()
            assert memory.stream("logged-1") == ()
            await clock.advance(5)
            await memory.settle()
            assert memory.stream("logged-1") == (ItemLogged(number=1),)
            assert len([one for one in memory.recorded if one.category.startswith("replies.")]) == 1


def test_chaos_refuses_what_it_cannot_do() -> None:
    with pytest.raises(UsageError, match=r"Chaos\(crash=1.5\) must be a chance from 0 to 0.9"):
        Chaos(1, crash=1.5)
    with pytest.raises(UsageError, match="members=0"):
        Chaos(1, members=0)


async def test_nothing_goes_wrong_without_chaos() -> None:
    service = right_shop()
    async with memory_service(service) as memory:
        await order(service, ORDERS)
        await memory.settle()
        assert memory.chaos == ChaosCounts()
        assert memory.chaos.total == 0
