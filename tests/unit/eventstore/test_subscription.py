"""Subscriptions over a log in memory."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from headwater.errors import InvalidEvent, LogDiverged, UsageError
from headwater.eventstore import EVERYTHING, Checkpoint, EventSelection, LogEpoch, LogIdentity, LogTail, Subscription, subscription
from headwater.messages import ANY, Event, NewEvent
from headwater.service import Service
from headwater.testing import MemoryEventStore, eventually, memory_service
from tests.subscribing import LAST_TYPE, Consumer, TroubledStore
from tests.support import SeededRuns


class OrderPlaced(Event):
    number: int = 0


class OrderPaid(Event):
    number: int = 0


def event(event_type: str = "Happened", number: int = 0) -> NewEvent:
    return NewEvent(event_type, f'{{"number": {number}}}')


async def fill(store: MemoryEventStore, count: int, stream_name: str = "order-1", event_type: str = "Happened") -> None:
    for start in range(0, count, 1000):
        await store.append(stream_name, [event(event_type) for _ in range(min(1000, count - start))], expected_version=ANY)


def positions(batch: subscription.EventBatch) -> list[int]:
    return [found.global_position for found in batch.events]


def watched(store: MemoryEventStore) -> LogTail:
    """A tail that hears of every append."""
    tail = LogTail(store)
    store.on_append(tail.wake)
    return tail


# -- catching up, and living on


async def test_catches_up_and_then_follows_over_one_interface() -> None:
    store = MemoryEventStore()
    await fill(store, 250)
    async with Subscription(store, batch_size_max=100, tail=watched(store)) as reading:
        assert [positions(await anext(reading)) for _ in range(3)] == [list(range(1, 101)), list(range(101, 201)), list(range(201, 251))]
        waiting = asyncio.create_task(anext(reading))
        await asyncio.sleep(0)
        await fill(store, 2)
        batch = await waiting
    assert positions(batch) == [251, 252]
    assert batch.checkpoint == Checkpoint(1, 252, store.events[-1].event_id) == reading.checkpoint
    assert batch.checkpoint_at(batch.events[0]) == Checkpoint(1, 251, store.events[250].event_id)


async def test_polling_finds_what_no_doorbell_told() -> None:
    store = MemoryEventStore()
    async with Subscription(store) as reading:
        waiting = asyncio.create_task(anext(reading))
        await asyncio.sleep(0.01)
        await fill(store, 1)
        assert positions(await waiting) == [1]


async def test_goes_on_behind_a_checkpoint_or_a_position() -> None:
    store = MemoryEventStore()
    await fill(store, 5)
    for after in (Checkpoint(1, 3, store.events[2].event_id), 3):
        async with Subscription(store, after=after) as reading:
            assert positions(await anext(reading)) == [4, 5]
    async with Subscription(store, after=await store.last_checkpoint(), tail=watched(store)) as reading:
        waiting = asyncio.create_task(anext(reading))
        await asyncio.sleep(0)
        await fill(store, 1)
        assert positions(await waiting) == [6]


@pytest.mark.parametrize("wrong", [{"after": -1}, {"after": True}, {"after": "1"}, {"batch_size_max": 0}, {"batch_size_max": 10_001}])
async def test_senseless_beginnings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Subscription(MemoryEventStore(), **wrong)


@pytest.mark.parametrize("wrong", [{"types": "OrderPlaced"}, {"categories": ("",)}, {"stream_prefixes": (1,)}, {"types": ("x",) * 1_001}])
def test_senseless_selections_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        EventSelection(**wrong)


# -- selections


async def test_checkpoint_passes_what_is_not_wanted_and_is_told_now_and_then() -> None:
    store = MemoryEventStore()
    await fill(store, 25_000)
    await fill(store, 1, event_type="Rare")
    await fill(store, 3)
    async with Subscription(store, EventSelection(types=("Rare",)), tail=watched(store)) as reading:
        batches = [await anext(reading) for _ in range(3)]
        assert [(positions(batch), batch.checkpoint.global_position) for batch in batches] == [
            ([], 10_000),
            ([], 20_000),
            ([25_001], 25_004),
        ]
        waiting = asyncio.create_task(anext(reading))
        for _ in range(3):
            await fill(store, 1000)
            await asyncio.sleep(0.02)
        await fill(store, 1, event_type="Rare")
        assert positions(await waiting) == [28_005]


# -- back-pressure and endings


async def test_nothing_is_read_beyond_one_page_while_the_consumer_works() -> None:
    store = MemoryEventStore()
    await fill(store, 20_000)
    troubled = TroubledStore(store)
    async with Subscription(troubled, EventSelection(categories=("order",)), batch_size_max=50) as reading:
        for expected_pages in range(2, 8):
            await anext(reading)
            await asyncio.sleep(0.02)
            assert troubled.calls.count("read_selected") == expected_pages


async def test_large_events_come_in_small_batches() -> None:
    store = MemoryEventStore()
    for _ in range(13):
        await store.append("order-1", [NewEvent("Large", f'"{"x" * 1_000_000}"') for _ in range(10)], expected_version=ANY)
    async with Subscription(store) as reading:
        sizes = [len((await anext(reading)).events) for _ in range(4)]
    assert sizes[0] == 100
    assert max(sizes[1:]) <= 16


async def test_cancelled_wait_loses_nothing() -> None:
    store = MemoryEventStore()
    await fill(store, 5_000)
    async with Subscription(store, batch_size_max=100) as reading:
        seen: list[int] = []
        chance = random.Random(1)
        while len(seen) < 5_000:
            step = asyncio.create_task(anext(reading))
            for _ in range(chance.randrange(12)):
                await asyncio.sleep(0)
            step.cancel()
            (outcome,) = await asyncio.gather(step, return_exceptions=True)
            if isinstance(outcome, subscription.EventBatch):
                seen += positions(outcome)
    assert seen == list(range(1, 5_001))


async def test_stop_ends_a_wait_and_stays() -> None:
    store = MemoryEventStore()
    reading = Subscription(store)
    waiting = asyncio.create_task(anext(reading, None))
    await asyncio.sleep(0.01)
    reading.stop()
    assert await waiting is None
    reading.stop()
    assert [batch async for batch in reading] == []
    await reading.close()
    await reading.close()


async def test_second_task_is_refused() -> None:
    reading = Subscription(MemoryEventStore())
    waiting = asyncio.create_task(anext(reading, None))
    await asyncio.sleep(0)
    with pytest.raises(UsageError, match="another task"):
        await anext(reading)
    reading.stop()
    assert await waiting is None
    await reading.close()


# -- the log changes underneath


async def test_checkpoint_that_the_log_lost_is_told_at_once() -> None:
    store = MemoryEventStore()
    await fill(store, 3)
    for lost in (Checkpoint(1, 2, uuid4()), Checkpoint(1, 9, store.events[0].event_id)):
        async with Subscription(store, after=lost) as reading:
            with pytest.raises(LogDiverged):
                await anext(reading)


async def test_new_epoch_is_noticed_and_the_checkpoint_verified_again() -> None:
    store = MemoryEventStore()
    await fill(store, 3)
    async with Subscription(store, tail=watched(store)) as reading:
        assert (await anext(reading)).checkpoint.epoch == 1
        # A failover that lost nothing.
        store._identity = LogIdentity(store._identity.log_id, (LogEpoch(1, 0), LogEpoch(2, 3)))
        await fill(store, 1)
        assert (await anext(reading)).checkpoint == Checkpoint(2, 4, store.events[3].event_id)
        # One that lost the last event, whose position another took.
        store._identity = LogIdentity(store._identity.log_id, (*store._identity.epochs, LogEpoch(3, 3)))
        store._log[3] = replace(store._log[3], event_id=uuid4())
        await fill(store, 1)
        with pytest.raises(LogDiverged):
            await anext(reading)


async def test_log_that_is_shorter_than_what_was_read_is_noticed_without_new_events() -> None:
    store = MemoryEventStore()
    await fill(store, 3)
    tail = watched(store)
    async with Subscription(store, tail=tail) as reading:
        await anext(reading)
        store._identity = LogIdentity(store._identity.log_id, (LogEpoch(1, 0), LogEpoch(2, 2)))
        del store._log[2]
        with pytest.raises(LogDiverged):
            await anext(reading)


async def test_server_that_is_away_is_waited_out_and_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription, "RETRY_PAUSE_SECONDS_MIN", 0.001)
    store = MemoryEventStore()
    await fill(store, 30)
    troubled = TroubledStore(store)
    with capture_logs() as facts:
        async with Subscription(troubled, batch_size_max=10) as reading:
            seen: list[int] = []
            for _ in range(3):
                troubled.is_away, calls = True, len(troubled.calls)
                waiting = asyncio.create_task(anext(reading))
                await eventually(lambda calls=calls, waiting=waiting: waiting.done() or len(troubled.calls) > calls + 3)
                troubled.is_away = False
                seen += positions(await waiting)
    assert seen == list(range(1, 31))
    told = [fact["event"] for fact in facts]
    assert "subscription_waiting" in told
    assert told.count("subscription_waiting") == told.count("subscription_resumed") <= 3


# -- many readers


async def test_readers_at_the_end_share_one_read() -> None:
    store = MemoryEventStore()
    await fill(store, 10)
    troubled = TroubledStore(store)
    tail = LogTail(troubled)
    store.on_append(tail.wake)
    selections = [
        EVERYTHING,
        EventSelection(types=("Happened",)),
        EventSelection(categories=("order",)),
        EventSelection(types=("Rare", "Happened")),
    ]
    readers = [Subscription(troubled, selection, tail=tail) for selection in selections * 5]
    for reader in readers:
        await anext(reader)
    waiting = [asyncio.create_task(anext(reader)) for reader in readers]
    await asyncio.sleep(0.01)
    troubled.calls.clear()
    await fill(store, 1)
    assert {tuple(positions(batch)) for batch in await asyncio.gather(*waiting)} == {(11,)}
    assert troubled.calls.count("read_log") == 1
    assert troubled.calls.count("read_selected") == 0
    for reader in readers:
        await reader.close()
    await tail.close()


async def test_idle_log_is_polled_about_once_a_second_whoever_waits() -> None:
    troubled = TroubledStore(MemoryEventStore())
    tail = LogTail(troubled)
    readers = [Subscription(troubled, tail=tail) for _ in range(10)]
    waiting = [asyncio.create_task(anext(reader, None)) for reader in readers]
    # 5, 10, 20 … milliseconds, and then a second each.
    await eventually(lambda: troubled.calls.count("horizon") >= 8)
    troubled.calls.clear()
    await asyncio.sleep(2.5)
    assert len(troubled.calls) <= 3
    for reader in readers:
        reader.stop()
    await asyncio.gather(*waiting)
    await tail.close()


@pytest.mark.parametrize("is_shared", [True, False])
async def test_killed_and_resumed_subscribers_see_everything_once(is_shared: bool) -> None:
    kills = 0
    for seed in SeededRuns(f"subscription-memory-{is_shared}", default=15, full=200):
        chance = random.Random(seed)
        store = MemoryEventStore()
        tail = watched(store) if is_shared else None
        consumers = [
            Consumer(selection)
            for selection in (
                EVERYTHING,
                EventSelection(types=("T1", LAST_TYPE)),
                EventSelection(categories=("b",), types=("T0", "T2", LAST_TYPE)),
                EventSelection(stream_prefixes=("b-1", "a-")),
            )
        ]

        async def write(store: MemoryEventStore = store, chance: random.Random = chance) -> None:
            for _ in range(150):
                stream_name = f"{chance.choice('abc')}-{chance.randrange(20)}"
                events = [event(f"T{chance.randrange(4)}") for _ in range(chance.choice([1, 1, 2, 30]))]
                await store.append(stream_name, events, expected_version=ANY)
                if chance.random() < 0.3:
                    await asyncio.sleep(chance.random() * 0.003)
            await store.append("b-1", [event(LAST_TYPE)], expected_version=ANY)

        async with asyncio.TaskGroup() as group:
            group.create_task(write())
            for number, consumer in enumerate(consumers):
                group.create_task(consumer.consume_through_kills(store, random.Random(seed * 10 + number), tail))
        for consumer in consumers:
            consumer.compare(list(store.events))
            kills += consumer.kills
        if tail is not None:
            await tail.close()
    assert kills > 10


# -- as events of a service


async def test_service_gives_typed_events_with_a_checkpoint_to_go_on_from() -> None:
    service = Service("shop")
    async with memory_service(service):
        await service.store.append("order-1", [OrderPlaced(number=1), OrderPaid(number=1), OrderPlaced(number=2)], expected_version=0)
        await service.store.append("order-2", [OrderPlaced(number=3)], expected_version=0)
        async with service.subscribe(OrderPlaced, stream_prefixes=("order-1",)) as placed:
            assert [(await anext(placed)).number, placed.recorded.version] == [1, 1]
            checkpoint = placed.checkpoint
        async with service.subscribe(OrderPlaced, OrderPaid, after=checkpoint) as both:
            found = [await anext(both) for _ in range(3)]
            assert [(type(one), one.number) for one in found] == [(OrderPaid, 1), (OrderPlaced, 2), (OrderPlaced, 3)]
            waiting = asyncio.ensure_future(anext(both))
            await asyncio.sleep(0)
            await service.store.append("order-2", [OrderPaid(number=3)], expected_version=1)
            assert await waiting == OrderPaid(number=3)
        async with service.subscribe(after=both.checkpoint) as everything:
            await service.store.append("order-3", [OrderPlaced(number=4)], expected_version=0)
            assert [one.global_position for one in (await anext(everything.batches)).events] == [6]


async def test_event_that_does_not_fit_its_class_is_not_passed_over() -> None:
    service = Service("shop")
    # Other modules have a class of this name, too.
    service.events.register(OrderPlaced)
    async with memory_service(service):
        await service.store.append("order-1", [OrderPlaced(number=1)], expected_version=0)
        await service.store.append("order-1", [NewEvent("OrderPlaced", '{"number": "many"}')], expected_version=1)
        async with service.subscribe(OrderPlaced) as placed:
            await anext(placed)
            for _ in range(2):
                with pytest.raises(InvalidEvent, match="position 2"):
                    await anext(placed)
                assert placed.checkpoint.global_position == placed.recorded.global_position == 1
