"""Handlers of many events at once: one call a transaction, and the event at fault stands alone in the end."""

from __future__ import annotations

import asyncio

import pytest

from headwater.bus import BatchContext, ConsumerLimits, Context, DeadLetterIt, RetryPolicy, Subscriptions
from headwater.errors import TransactionConflict, UsageError
from headwater.messages import Event
from tests.unit.bus.world import OrderCancelled, OrderPlaced, StockReserved, World


def gather(world: World, calls: list[list[str]]) -> None:
    @world.subscriptions.on(OrderPlaced)
    async def reserve_many(events: list[OrderPlaced], context: BatchContext) -> None:
        calls.append([event.sku for event in events])
        await context.append("stock-all", [StockReserved(sku=event.sku) for event in events])
        if any(event.sku.startswith("poison") for event in events):
            raise ValueError("one of them")


def reserved(world: World) -> list[str]:
    return [event.data.split('"')[3] for event in world.store.events if event.category == "stock"]


async def test_a_batch_handler_gets_all_events_of_a_transaction_in_one_call() -> None:
    world, calls = World(partition_count=1), list[list[str]]()
    gather(world, calls)
    await world.place(*"abcde")
    await world.topics.relay()
    async with world.running():
        await world.caught_up()
    assert calls == [list("abcde")]
    assert reserved(world) == list("abcde")


async def test_the_event_at_fault_is_found_and_the_others_are_handled_once() -> None:
    world, calls = World(partition_count=1, retry_policy=RetryPolicy(attempts_max=2, jitter=0.0, then=DeadLetterIt())), list[list[str]]()
    gather(world, calls)
    skus = ["a", "b", "c", "poison1", "d", "e", "poison2", "f"]
    await world.place(*skus)
    await world.topics.relay()
    async with world.running():
        await world.caught_up()
    assert reserved(world) == [sku for sku in skus if not sku.startswith("poison")]
    letters = await world.effects.dead_letters.list()
    assert [letter.stream_name for letter in letters] == ["order-poison1", "order-poison2"]
    assert {letter.error_message for letter in letters} == {"one of them"}
    assert {letter.attempts for letter in letters} == {2}


async def test_single_and_batch_handlers_share_the_transaction() -> None:
    world = World(partition_count=1, retry_policy=RetryPolicy(attempts_max=1, then=DeadLetterIt()))
    order: list[str] = []

    @world.subscriptions.on(OrderPlaced)
    async def many(events: list[OrderPlaced]) -> None:
        order.append("".join(event.sku for event in events))

    @world.subscriptions.on(OrderPlaced)
    async def one(event: OrderPlaced, context: Context) -> None:
        order.append(event.sku)
        await context.append(f"stock-{event.sku}", StockReserved(sku=event.sku))

    await world.place(*"ab")
    await world.topics.relay()
    async with world.running():
        await world.caught_up()
    assert order == ["a", "b", "ab"]


async def test_a_batch_handler_of_several_classes_keeps_their_order() -> None:
    world, seen = World(partition_count=1), list[str]()

    @world.subscriptions.on(OrderPlaced, OrderCancelled)
    async def both(events: list[OrderPlaced | OrderCancelled]) -> None:
        seen.extend(f"{type(event).__name__} {event.sku}" for event in events)

    await world.store.append("order-1", [OrderPlaced(sku="a"), OrderCancelled(sku="a"), OrderPlaced(sku="b")], expected_version=0)
    async with world.running():
        await world.caught_up()
    assert seen == ["OrderPlaced a", "OrderCancelled a", "OrderPlaced b"]


async def test_a_conflict_in_a_batch_does_not_count_against_its_events() -> None:
    world, failures = World(partition_count=1, retry_policy=RetryPolicy(attempts_max=1, then=DeadLetterIt())), [3]

    @world.subscriptions.on(OrderPlaced)
    async def reserve_many(events: list[OrderPlaced], context: BatchContext) -> None:
        await context.append("stock-all", [StockReserved(sku=event.sku) for event in events])
        if failures[0]:
            failures[0] -= 1
            raise TransactionConflict("deadlock")

    await world.place(*"abcd")
    await world.topics.relay()
    async with world.running():
        await world.caught_up()
    assert reserved(world) == list("abcd")
    assert await world.effects.dead_letters.count() == 0


async def test_the_batch_tells_how_its_events_were_stored() -> None:
    world, seen = World(partition_count=1), list[str]()

    @world.subscriptions.on(OrderPlaced)
    async def look(events: list[OrderPlaced], context: BatchContext) -> None:
        seen.extend(f"{recorded.stream_name} {event.sku}" for event, recorded in zip(events, context.recorded, strict=True))

    await world.place("a", "b")
    await world.topics.relay()
    async with world.running():
        await world.caught_up()
    assert seen == ["order-a a", "order-b b"]


def test_a_list_of_another_class_is_refused_at_import() -> None:
    with pytest.raises(UsageError, match="annotated as OrderCancelled"):

        @Subscriptions().on(OrderPlaced)  # type: ignore[arg-type]
        async def wrong(events: list[OrderCancelled]) -> None: ...


def test_a_batch_handler_takes_the_context_of_batches() -> None:
    with pytest.raises(UsageError, match="as BatchContext"):

        @Subscriptions().on(OrderPlaced)  # type: ignore[arg-type]
        async def wrong(events: list[Event], context: Context) -> None: ...


async def test_a_batch_handler_that_never_returns_is_cut_off_and_the_event_at_fault_is_found() -> None:
    limits = ConsumerLimits(handler_seconds_max=0.05, batch_seconds_max=0.05)
    world = World(partition_count=1, retry_policy=RetryPolicy(attempts_max=1, then=DeadLetterIt()), limits=limits)

    @world.subscriptions.on(OrderPlaced)
    async def slow(events: list[OrderPlaced], context: BatchContext) -> None:
        await context.append("stock-all", [StockReserved(sku=event.sku) for event in events])
        if any(event.sku == "slow" for event in events):
            await asyncio.Event().wait()

    await world.place("a", "slow", "b")
    await world.topics.relay()
    async with world.running():
        async with asyncio.timeout(20):
            while len(reserved(world)) < 2:
                await world.clock.advance(1)
                await asyncio.sleep(0.005)
    assert reserved(world) == ["a", "b"]
    (letter,) = await world.effects.dead_letters.list()
    assert letter.stream_name == "order-slow"
    assert "took longer than 0.05 s" in letter.error_message
