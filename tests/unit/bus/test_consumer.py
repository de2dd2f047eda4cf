"""The loop on memory doubles: order, duplicates, gaps, fencing, waiting out."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from headwater.bus import ConsumerLimits, Context
from headwater.errors import UsageError
from headwater.kafka import Envelope, Partition
from headwater.messages import CAUSATION_ID, CORRELATION_ID, LOG_START, EventRegistry, LogPosition
from headwater.outbox import Publisher
from tests.unit.bus.world import OrderCancelled, OrderPlaced, StockReserved, World


async def test_every_event_reaches_its_handler_once_and_in_order_per_stream() -> None:
    world = World()

    @world.subscriptions.on(OrderPlaced)
    async def note(event: OrderPlaced) -> None:
        world.handled.append(event.sku)

    for number in range(60):
        await world.place(f"s{number % 7}.{number}", stream=f"order-{number % 7}")
    async with world.running():
        await world.caught_up()
    for stream in range(7):
        mine = [sku for sku in world.handled if sku.startswith(f"s{stream}.")]
        assert mine == [f"s{stream}.{number}" for number in range(60) if number % 7 == stream]
    assert len(world.handled) == 60


async def test_appends_commit_with_the_position_and_carry_cause_and_correlation() -> None:
    world = World()

    @world.subscriptions.on(OrderPlaced)
    async def reserve(event: OrderPlaced, context: Context) -> None:
        result = await context.append(f"stock-{event.sku}", StockReserved(sku=event.sku))
        assert result.version == 1
        assert [e.version async for e in context.read_stream(f"stock-{event.sku}")] == [1]
        again = await context.append(f"stock-{event.sku}", [StockReserved(sku=event.sku)], expected_version=1)
        assert again.version == 2

    await world.place("chai")
    async with world.running():
        await world.caught_up()
    order, first, second = world.store.events
    assert [first.version, second.version] == [1, 2]
    assert first.metadata[CAUSATION_ID] == str(order.event_id)
    assert first.metadata[CORRELATION_ID] == order.correlation_id


async def test_events_that_nobody_handles_move_the_position() -> None:
    world = World()

    @world.subscriptions.on(OrderCancelled)
    async def note(event: OrderCancelled) -> None:
        world.handled.append(event.sku)

    await world.place("a", "b", "c")
    async with world.running():
        await world.caught_up()
    assert world.handled == []


async def test_records_delivered_twice_are_dropped() -> None:
    world = World(partition_count=1)

    @world.subscriptions.on(OrderPlaced)
    async def note(event: OrderPlaced) -> None:
        world.handled.append(event.sku)

    await world.place("a", "b")
    await world.topics.relay()
    partition = Partition("order", 0)
    identity = await world.store.identity()
    for event in world.store.events:  # what a relay without a fence would leave behind
        world.topics.put_envelope(partition, Envelope(event, identity.log_id, LogPosition(1, event.global_position), LOG_START))
    async with world.running():
        await world.caught_up()
    assert world.handled == ["a", "b"]


async def test_a_hole_in_the_chain_stops_its_partition_and_no_other() -> None:
    world = World(partition_count=2)

    @world.subscriptions.on(OrderPlaced)
    async def note(event: OrderPlaced) -> None:
        world.handled.append(event.sku)

    await world.place(*"abcdefgh")
    await world.topics.relay()
    holed = Partition("order", 0)
    event = replace(world.store.events[0], global_position=1_000)
    log_id = (await world.store.identity()).log_id
    world.topics.put_envelope(holed, Envelope(event, log_id, LogPosition(1, 1_000), LogPosition(1, 999)))
    async with world.running() as consumer:
        await world.caught_up(gave_up_on={holed})
        await world.until(lambda: any(s.state == "stopped" for s in consumer.status()))
        statuses = {status.partition: status for status in consumer.status()}
        assert "missing" in str(statuses[holed].reason)
        row = world.effects.position("shop", holed)
        assert row is not None
        assert row.next_offset == world.topics.range_of(holed).end - 1  # what came before the hole is applied
        await world.place(*"ijklmn")
        await world.caught_up(gave_up_on={holed})
    assert set("abcdefgh") <= set(world.handled)


async def test_history_that_was_deleted_before_it_was_read_is_a_gap() -> None:
    world = World(partition_count=1)

    @world.subscriptions.on(OrderPlaced)
    async def note(event: OrderPlaced) -> None:
        world.handled.append(event.sku)

    await world.place(*"abc")
    await world.topics.relay()
    world.topics.delete_before(Partition("order", 0), 1)
    async with world.running() as consumer:
        await world.until(lambda: any(s.state == "stopped" for s in consumer.status()))
    assert world.handled == []


@pytest.mark.parametrize("refilled", [0, 1, 3, 5])
async def test_a_recreated_topic_is_noticed(refilled: int) -> None:
    world = World(partition_count=1)

    @world.subscriptions.on(OrderPlaced)
    async def note(event: OrderPlaced) -> None:
        world.handled.append(event.sku)

    await world.place(*"abc")
    async with world.running():
        await world.caught_up()
    world.topics.recreate("order")
    other = World(partition_count=1)
    await other.place(*[f"other{n}" for n in range(refilled)])
    log_id, previous = (await other.store.identity()).log_id, LOG_START
    for event in other.store.events:
        position = LogPosition(1, event.global_position)
        world.topics.put_envelope(Partition("order", 0), Envelope(event, log_id, position, previous))
        previous = position
    async with world.running() as consumer:
        await world.until(lambda: any(s.state == "stopped" for s in consumer.status()))
        assert "recreated" in str(consumer.status()[0].reason)
    assert world.handled == ["a", "b", "c"]


async def test_two_logs_in_one_partition_have_marks_of_their_own() -> None:
    world = World(partition_count=1)

    @world.subscriptions.on(OrderPlaced)
    async def note(event: OrderPlaced) -> None:
        world.handled.append(event.sku)

    await world.place(*"abc")
    await world.topics.relay()
    other = World(partition_count=1)
    await other.place("x")
    log_id = (await other.store.identity()).log_id
    world.topics.put_envelope(Partition("order", 0), Envelope(other.store.events[0], log_id, LogPosition(1, 1), LOG_START))
    async with world.running():
        await world.caught_up()
    assert world.handled == ["a", "b", "c", "x"]
    row = world.effects.position("shop", Partition("order", 0))
    assert row is not None
    assert {mark.global_position for mark in row.marks.values()} == {3, 1}


async def test_a_member_whose_partition_was_claimed_commits_nothing_more() -> None:
    world = World(partition_count=1)
    partition = Partition("order", 0)
    holding, entered = asyncio.Event(), asyncio.Event()

    @world.subscriptions.on(OrderPlaced)
    async def note(event: OrderPlaced, context: Context) -> None:
        await context.append(f"stock-{event.sku}", StockReserved(sku=event.sku))
        entered.set()
        await holding.wait()

    await world.place("a")
    zombie, _ = world.member()
    async with world.running(zombie):
        await world.until(entered.is_set)
        # Memory transactions take turns, so the newer claim is written as the database would see it.
        row = world.effects.position("shop", partition)
        assert row is not None
        world.effects.set_position("shop", replace(row, epoch=row.epoch + 1))
        holding.set()
        await world.until(lambda: zombie.status()[0].state == "lost")
        assert world.stream_names("stock") == []
    successor, _ = world.member()
    async with world.running(successor):
        await world.caught_up()
    assert world.stream_names("stock") == ["stock-a"]


async def test_a_lost_partition_is_claimed_again_when_nobody_else_lives() -> None:
    world = World(partition_count=1, limits=ConsumerLimits(reclaim_seconds=5))
    partition = Partition("order", 0)

    @world.subscriptions.on(OrderPlaced)
    async def note(event: OrderPlaced) -> None:
        world.handled.append(event.sku)

    await world.place("a")
    async with world.running():
        await world.caught_up()
        row = world.effects.position("shop", partition)
        assert row is not None
        world.effects.set_position("shop", replace(row, epoch=row.epoch + 1))
        await world.place("b")
        before = world.clock.monotonic()
        await world.caught_up()
        assert world.clock.monotonic() - before >= 5
    assert world.handled == ["a", "b", "b"]  # the first attempt at b was rolled back


async def test_revoked_partitions_go_to_the_next_member_where_the_first_left_off() -> None:
    world = World(partition_count=2)

    @world.subscriptions.on(OrderPlaced)
    async def note(event: OrderPlaced) -> None:
        world.handled.append(event.sku)

    first, first_source = world.member()
    second, second_source = world.member(share=[])
    await world.place(*"abcdef")
    async with world.running(first), world.running(second):
        await world.caught_up()
        moved = Partition("order", 1)
        await first_source.revoke([moved])
        await world.until(lambda: second_source.open_count > 0)
        await second_source.assign([moved])
        await world.place(*"ghijkl")
        await world.caught_up()
        assert [s.partition for s in second.status()] == [moved]
        assert [s.partition for s in first.status()] == [Partition("order", 0)]
    assert sorted(world.handled) == list("abcdefghijkl")


async def test_database_and_broker_that_are_away_are_waited_out() -> None:
    world = World()

    @world.subscriptions.on(OrderPlaced)
    async def note(event: OrderPlaced, context: Context) -> None:
        await context.append(f"stock-{event.sku}", StockReserved(sku=event.sku))

    world.topics.is_reachable = False
    await world.place(*"abc")
    async with world.running():
        await world.clock.advance(60)
        world.topics.is_reachable, world.effects.is_reachable = True, False
        await world.clock.advance(60)
        world.effects.is_reachable = True
        await world.caught_up()
        world.effects.is_reachable = False
        await world.place(*"def")
        await world.clock.advance(60)
        world.effects.is_reachable = True
        await world.caught_up()
    assert sorted(world.stream_names("stock")) == [f"stock-{sku}" for sku in "abcdef"]


async def test_a_commit_whose_answer_was_lost_is_not_repeated() -> None:
    world = World(partition_count=1)

    @world.subscriptions.on(OrderPlaced)
    async def note(event: OrderPlaced, context: Context) -> None:
        await context.append(f"stock-{event.sku}", StockReserved(sku=event.sku))

    await world.place(*"abc")
    world.effects.lose_next_answer = True
    async with world.running():
        await world.caught_up()
        await world.place("d")
        await world.caught_up()
    assert world.stream_names("stock") == ["stock-a", "stock-b", "stock-c", "stock-d"]


async def test_stopping_finishes_the_batch_at_hand() -> None:
    world = World(partition_count=1)
    entered, leave = asyncio.Event(), asyncio.Event()

    @world.subscriptions.on(OrderPlaced)
    async def note(event: OrderPlaced, context: Context) -> None:
        await context.append(f"stock-{event.sku}", StockReserved(sku=event.sku))
        entered.set()
        await leave.wait()

    await world.place("a")
    consumer, _ = world.member()
    task = asyncio.create_task(consumer.run())
    await world.until(entered.is_set)
    task.cancel()
    await asyncio.sleep(0)
    leave.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert world.stream_names("stock") == ["stock-a"]


async def test_stopping_cuts_off_a_batch_that_takes_too_long() -> None:
    world = World(partition_count=1, limits=ConsumerLimits(shutdown_seconds_max=0.05))
    entered = asyncio.Event()

    @world.subscriptions.on(OrderPlaced)
    async def note(event: OrderPlaced, context: Context) -> None:
        await context.append(f"stock-{event.sku}", StockReserved(sku=event.sku))
        entered.set()
        await asyncio.Event().wait()

    await world.place("a")
    consumer, _ = world.member()
    task = asyncio.create_task(consumer.run())
    await world.until(entered.is_set)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert world.stream_names("stock") == []
    assert await world.effects.dead_letters.count() == 0


async def test_publish_joins_the_transaction() -> None:
    world = World(partition_count=1)
    publisher = Publisher(world.effects.store, EventRegistry([StockReserved]))
    world.options["publisher"] = publisher
    attempts = 0

    @world.subscriptions.on(OrderPlaced)
    async def announce(event: OrderPlaced, context: Context) -> None:
        nonlocal attempts
        attempts += 1
        await context.publish("StockReserved", {"sku": event.sku}, key=event.sku)
        if attempts < 3:
            raise ValueError("not yet")

    await world.place("a")
    async with world.running():
        await world.caught_up()
    assert attempts == 3
    assert [event.type for event in world.store.events] == ["OrderPlaced", "StockReserved"]


async def test_without_handlers_there_is_nothing_to_run() -> None:
    consumer, _ = World().member()
    with pytest.raises(UsageError, match="no handlers"):
        await consumer.run()


async def test_random_rebalances_crashes_and_failures_leave_every_effect_once() -> None:
    """Ten seeds of members that come, go and lose their database, with handlers that fail now and then."""
    import random

    for seed in range(10):
        chance = random.Random(seed)
        world = World(partition_count=4)

        @world.subscriptions.on(OrderPlaced)
        async def reserve(event: OrderPlaced, context: Context, *, chance: random.Random = chance) -> None:
            await context.append(f"stock-{event.sku}", StockReserved(sku=event.sku))
            if chance.random() < 0.05:
                raise ValueError("now and then")

        expected: list[str] = []
        for _ in range(12):
            batch = [f"{len(expected) + n}" for n in range(chance.randint(1, 20))]
            expected += batch
            await world.place(*batch)
            async with world.running() as consumer:
                for _ in range(chance.randint(0, 60)):
                    await asyncio.sleep(0)
                world.effects.lose_next_answer = chance.random() < 0.3
                if chance.random() < 0.3:
                    await world.caught_up()
                assert consumer.status() is not None
        async with world.running():
            await world.caught_up()
        letters = {letter.stream_name for letter in world.effects.letters}
        reserved = [name.removeprefix("stock-") for name in world.stream_names("stock")]
        assert len(set(reserved)) == len(reserved)
        assert set(reserved) | {str(name).removeprefix("order-") for name in letters} == set(expected)


async def test_a_position_that_went_back_with_its_database_is_gone_on_from_there() -> None:
    """An asynchronous failover: what was committed last is gone with its effects, and the member is still the owner."""
    world = World(partition_count=1)
    partition = Partition("order", 0)

    @world.subscriptions.on(OrderPlaced)
    async def note(event: OrderPlaced) -> None:
        world.handled.append(event.sku)

    await world.place("a", "b")
    async with world.running():
        await world.caught_up()
        behind = world.effects.position("shop", partition)
        assert behind is not None
        await world.place("c", "d")
        await world.caught_up()
        world.effects.is_reachable = False
        await world.place("e")
        await world.topics.relay()
        await world.clock.advance(5)
        world.effects.set_position("shop", behind)
        world.effects.is_reachable = True
        await world.caught_up()
    assert world.handled == ["a", "b", "c", "d", "c", "d", "e"]
