"""Key lanes on memory doubles: many keys at once, order per key, nothing repeated, the position behind what is finished."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from headwater.bus import ConsumerLimits, Context, Lane, LaneMarks, Park, RetryPolicy, Stop, Subscriptions, lane_of
from headwater.errors import StorageUnavailable, UsageError
from headwater.kafka import Partition
from tests.unit.bus.world import OrderPlaced, StockReserved, World

ORDER_0 = Partition("order", 0)
SOON = RetryPolicy(attempts_max=1, jitter=0.0, then=Park(first_delay_seconds=1.0, delay_factor=1.0, jitter=0.0))


def calling(world: World, *, lanes: int, seconds: float = 0.01) -> None:
    """A handler that waits for the outside world."""

    @world.subscriptions.on(OrderPlaced, lanes=lanes)
    async def call(event: OrderPlaced) -> None:
        await world.clock.sleep(seconds)
        world.handled.append(event.sku)


async def _seconds_with(lanes: int) -> float:
    world = World(partition_count=1)
    calling(world, lanes=lanes)
    for number in range(400):
        await world.place(f"{number % 100}.{number}", stream=f"order-{number % 100}")
    async with world.running():
        await world.until(lambda: len(world.handled) == 400)
        seconds = world.clock.monotonic()
        await world.caught_up()
    for stream in range(100):
        mine = [sku for sku in world.handled if sku.startswith(f"{stream}.")]
        assert mine == [f"{stream}.{number}" for number in range(400) if number % 100 == stream]
    return seconds


async def test_sixteen_lanes_wait_for_the_outside_ten_times_as_fast_as_one_and_keep_the_order_of_each_key() -> None:
    assert await _seconds_with(1) / await _seconds_with(16) > 10


@pytest.mark.parametrize("lanes", [-1, 1_025, 1.5, True, "4"])
def test_a_number_of_lanes_that_means_nothing_is_refused_at_import(lanes: object) -> None:
    with pytest.raises(UsageError, match="must be a number from 1 to 1024"):
        Subscriptions().on(OrderPlaced, lanes=lanes)  # type: ignore[arg-type]


async def test_the_position_follows_only_what_is_finished_and_a_restart_repeats_nothing() -> None:
    world = World(partition_count=1, limits=ConsumerLimits(shutdown_seconds_max=0.0))
    gate = asyncio.Event()
    slow = "order-slow"

    @world.subscriptions.on(OrderPlaced, lanes=8)
    async def call(event: OrderPlaced, context: Context) -> None:
        await context.append(f"stock-{context.stream_name}", StockReserved(sku=event.sku))
        world.handled.append(event.sku)

    @world.subscriptions.on(OrderPlaced, lanes=8)
    async def stuck(event: OrderPlaced) -> None:
        if event.sku == "stuck":
            await gate.wait()

    await world.place("a", "b")
    await world.place("stuck", stream=slow)
    await world.place("c", "d", "e")
    async with world.running():
        await world.until(lambda: set("abcde") | {"stuck"} == set(world.handled))
        await world.until(lambda: world.effects.position("shop", ORDER_0).next_offset == 2)  # type: ignore[union-attr]
        await world.clock.advance(1)
        row = world.effects.position("shop", ORDER_0)
        assert row is not None
        assert row.next_offset == 2, "everything before the message that is stuck"
    gate.set()
    async with world.running():
        await world.caught_up()
    assert sorted(world.handled) == sorted([*"abcde", "stuck"])


async def test_a_poisoned_key_is_parked_and_costs_the_others_of_its_lane_nothing() -> None:
    world = World(partition_count=1, retry_policy=SOON)
    is_broken = True

    @world.subscriptions.on(OrderPlaced, lanes=1)
    async def call(event: OrderPlaced, context: Context) -> None:
        if is_broken and context.stream_name == "order-bad":
            raise ValueError("no")
        await context.append(f"stock-{context.stream_name}", StockReserved(sku=event.sku))

    for number in range(4):
        await world.place(f"bad{number}", stream="order-bad")
        await world.place(f"good{number}", stream="order-good")
    async with world.running() as consumer:
        await world.caught_up()
        assert world.clock.monotonic() < 0.9
        assert len(world.stream_names("stock")) == 4
        assert consumer.status()[0].parked_messages == 4
        is_broken = False
        await world.until(lambda: not world.effects.parking.keys)
    skus = [json.loads(e.data)["sku"] for e in world.store.events if e.stream_name == "stock-order-bad"]
    assert skus == ["bad0", "bad1", "bad2", "bad3"]


async def test_handlers_without_lanes_keep_their_batches_beside_one_with_lanes() -> None:
    world = World(partition_count=1)
    order: list[str] = []

    @world.subscriptions.on(OrderPlaced, lanes=4)
    async def call(event: OrderPlaced) -> None:
        order.append(f"call {event.sku}")

    @world.subscriptions.on(OrderPlaced)
    async def note(event: OrderPlaced, context: Context) -> None:
        order.append(f"note {event.sku}")
        await context.append("stock-all", StockReserved(sku=event.sku))

    skus = [str(number) for number in range(100)]
    await world.place(*skus)
    before = world.effects.commit_count
    async with world.running():
        await world.caught_up()
    assert [json.loads(e.data)["sku"] for e in world.store.events if e.category == "stock"] == skus
    assert all(order.index(f"call {sku}") < order.index(f"note {sku}") for sku in skus)
    assert world.effects.commit_count - before < 100 + 50, "one transaction for each message in its lane, and a few for the batches"


async def test_stop_in_a_lane_stops_its_partition() -> None:
    world = World(partition_count=1)
    is_broken = True

    @world.subscriptions.on(OrderPlaced, lanes=4, on_error={ValueError: Stop()})
    async def call(event: OrderPlaced, context: Context) -> None:
        if is_broken and event.sku == "bad":
            raise ValueError("no")
        await context.append(f"stock-{event.sku}", StockReserved(sku=event.sku))

    await world.place("a", "bad", "b")
    async with world.running() as consumer:
        await world.until(lambda: [s.state for s in consumer.status()] == ["stopped"])
        await world.place("c")
        await world.clock.advance(5)
        row = world.effects.position("shop", ORDER_0)
        assert row is not None
        assert row.next_offset == 1
    is_broken = False
    async with world.running():
        await world.caught_up()
    assert sorted(world.stream_names("stock")) == [f"stock-{sku}" for sku in ("a", "b", "bad", "c")]


async def test_a_lane_of_an_owner_that_was_replaced_commits_nothing() -> None:
    world = World(partition_count=1)
    entered, gate = asyncio.Event(), asyncio.Event()

    @world.subscriptions.on(OrderPlaced, lanes=4)
    async def call(event: OrderPlaced, context: Context) -> None:
        await context.append(f"stock-{event.sku}", StockReserved(sku=event.sku))
        entered.set()
        await gate.wait()

    await world.place("a", "b", "c")
    zombie, _ = world.member()
    async with world.running(zombie):
        await world.until(entered.is_set)
        row = world.effects.position("shop", ORDER_0)
        assert row is not None
        world.effects.set_position("shop", replace(row, epoch=row.epoch + 1))
        gate.set()
        await world.until(lambda: [s.state for s in zombie.status()] == ["lost"])
        assert world.stream_names("stock") == []
    async with world.running():
        await world.caught_up()
    assert sorted(world.stream_names("stock")) == ["stock-a", "stock-b", "stock-c"]


async def test_a_database_that_goes_away_is_waited_out_and_nothing_repeated() -> None:
    world = World(partition_count=2)

    @world.subscriptions.on(OrderPlaced, lanes=4)
    async def call(event: OrderPlaced, context: Context) -> None:
        await context.append(f"stock-{event.sku}", StockReserved(sku=event.sku))
        if event.sku == "3" and world.effects.is_reachable and not world.handled:
            world.handled.append("once")
            world.effects.is_reachable = False

    await world.place(*"0123456789")
    async with world.running():
        await world.until(lambda: world.handled)
        await world.clock.advance(20)
        world.effects.is_reachable = True
        world.effects.lose_next_answer = True
        await world.caught_up()
    assert sorted(world.stream_names("stock")) == [f"stock-{number}" for number in range(10)]


async def test_an_outside_failure_that_is_nobodys_fault_is_waited_out_in_the_lane() -> None:
    world = World(partition_count=1)
    troubles = 5

    @world.subscriptions.on(OrderPlaced, lanes=4)
    async def call(event: OrderPlaced) -> None:
        nonlocal troubles
        if event.sku == "b" and troubles:
            troubles -= 1
            raise StorageUnavailable("another database")
        world.handled.append(event.sku)

    await world.place(*"abc")
    async with world.running():
        await world.caught_up()
    assert sorted(world.handled) == ["a", "b", "c"]
    assert world.effects.letters == []


async def test_lanes_read_only_so_far_ahead() -> None:
    world = World(partition_count=1, limits=ConsumerLimits(lane_records_max=30, batch_size_max=10))
    gate = asyncio.Event()

    @world.subscriptions.on(OrderPlaced, lanes=4)
    async def call(event: OrderPlaced) -> None:
        world.handled.append(event.sku)
        if event.sku == "0":
            await gate.wait()

    await world.place(*[str(number) for number in range(200)])
    async with world.running():
        await world.until(lambda: len(world.handled) > 20)
        await world.clock.advance(5)
        assert len(world.handled) < 50
        gate.set()
        await world.caught_up()
    assert len(world.handled) == 200


async def test_a_rebalance_waits_for_the_lanes_and_the_next_member_repeats_nothing() -> None:
    world = World(partition_count=1)
    calling(world, lanes=4, seconds=0.5)
    first, source = world.member()
    second, second_source = world.member(share=[])
    await world.place(*"abcdefgh")
    async with world.running(first), world.running(second):
        await world.until(lambda: len(world.handled) >= 2)
        await world.until(lambda: second_source.open_count > 0)
        revoking = asyncio.create_task(source.revoke([ORDER_0]))
        await world.until(revoking.done)
        await second_source.assign([ORDER_0])
        await world.caught_up()
    assert sorted(world.handled) == list("abcdefgh")


# -- marks -------------------------------------------------------------------------------------------------------------


def test_a_message_was_handled_if_its_lane_got_that_far_under_any_number_of_lanes() -> None:
    keys = [f"order-{number}" for number in range(50)]
    marks = LaneMarks({Lane("h", 4, 1): 10, Lane("h", 3, 2): 7, Lane("h", 3, 0): -1})
    assert marks.highest == 10
    for key in keys:
        by_four, by_three = lane_of(key, 4) == 1, lane_of(key, 3) == 2
        assert marks.is_done("h", key, 7) == (by_four or by_three)
        assert marks.is_done("h", key, 10) == by_four
        assert not marks.is_done("h", key, 11)
        assert not marks.is_done("other", key, 0)


def test_the_keys_of_one_partition_spread_over_all_lanes() -> None:
    from headwater.kafka import partition_of

    keys = [key for number in range(4_000) if partition_of((key := f"order-{number}").encode(), 8) == 3]
    counts = [sum(lane_of(key, 16) == lane for key in keys) for lane in range(16)]
    assert min(counts) > len(keys) / 16 / 2
