"""A consumer that makes no progress, or hears nothing though records wait, is replaced; its effects stay exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from structlog.testing import capture_logs

from headwater.bus import Consumer, SourceRecord
from headwater.kafka import Partition
from headwater.metrics import BATCH_SECONDS, DEAD_LETTERS, HANDLER_CALLS, HANDLER_RETRIES, HANDLER_SECONDS, MESSAGES_HANDLED
from headwater.supervision import Supervisor, Worker, supervised
from headwater.testing import MemoryMetrics
from headwater.testing.memory_bus import MemorySource
from headwater.testing.time import settle
from tests.unit.bus.world import OrderPlaced, World


async def test_slow_handlers_that_get_on_are_no_stall() -> None:
    world = World(partition_count=1)

    @world.subscriptions.on(OrderPlaced)
    async def reserve(event: OrderPlaced) -> None:
        await world.clock.sleep(20.0)
        world.handled.append(event.sku)

    made: list[Consumer] = []

    def make() -> Consumer:
        made.append(world.member()[0])
        return made[-1]

    await world.place(*(f"s{number}" for number in range(20)))
    async with supervised(Supervisor([Worker("consumer", make)], clock=world.clock)):
        await world.caught_up()
    assert len(world.handled) == 20
    assert len(made) == 1


class DeafSource(MemorySource):
    """Opened the first time it hears nothing, though it does not say so."""

    async def receive(self, *, limit: int, timeout_seconds: float) -> Mapping[Partition, Sequence[SourceRecord]]:
        if self.open_count > 1:
            return await super().receive(limit=limit, timeout_seconds=timeout_seconds)
        await self._clock.sleep(timeout_seconds)
        return {}


async def test_a_source_that_gives_nothing_though_records_wait_is_joined_anew() -> None:
    world = World()

    @world.subscriptions.on(OrderPlaced)
    async def note(event: OrderPlaced) -> None:
        world.handled.append(event.sku)

    source = DeafSource(world.topics, clock=world.clock)
    consumer = Consumer(group="shop", subscriptions=world.subscriptions, source=source, effects=world.effects, clock=world.clock)
    await world.place("a", "b")
    with capture_logs() as facts:
        async with world.running(consumer):
            await world.caught_up()
    assert sorted(world.handled) == ["a", "b"]
    assert source.open_count == 2
    assert [fact["log_level"] for fact in facts if fact["event"] == "consumer_stalled"] == ["error"]


async def test_silence_without_records_is_no_stall() -> None:
    world = World()

    @world.subscriptions.on(OrderPlaced)
    async def note(event: OrderPlaced) -> None:
        world.handled.append(event.sku)

    consumer, source = world.member()
    await world.place("a")
    async with world.running(consumer):
        await world.caught_up()
        await world.clock.advance(600.0)
    assert source.open_count == 1


async def test_lag_counts_what_is_not_committed_and_tells_its_age() -> None:
    world = World(partition_count=1)
    may_go_on = asyncio.Event()

    @world.subscriptions.on(OrderPlaced)
    async def note(event: OrderPlaced) -> None:
        await may_go_on.wait()

    consumer, _ = world.member()
    await world.place("a", "b", "c")
    await world.topics.relay()
    async with world.running(consumer):
        await world.until(lambda: consumer.status() and consumer.status()[0].state == "working")
        await settle()
        (lag,) = await consumer.lags()
        assert lag.record_count == 3
        may_go_on.set()
        await world.caught_up()
        assert [(each.record_count, each.seconds) for each in await consumer.lags()] == [(0, 0.0)]


async def test_measurements_are_told_once_a_batch() -> None:
    metrics = MemoryMetrics()
    world = World(partition_count=1, metrics=metrics)

    @world.subscriptions.on(OrderPlaced)
    async def note(event: OrderPlaced) -> None:
        await world.clock.sleep(0.001)

    await world.place(*(f"s{number}" for number in range(200)))
    async with world.running():
        await world.caught_up()
    name = world.subscriptions.handlers[0].name
    assert metrics.value(MESSAGES_HANDLED, "shop") == 200
    assert metrics.value(HANDLER_CALLS, "shop", name) == 200
    assert round(metrics.value(HANDLER_SECONDS, "shop", name), 3) == 0.2
    assert len(metrics.observed[BATCH_SECONDS, ("shop",)]) == 1
    assert metrics.calls == 4


async def test_failures_are_counted() -> None:
    metrics = MemoryMetrics()
    world = World(partition_count=1, metrics=metrics)

    @world.subscriptions.on(OrderPlaced)
    async def note(event: OrderPlaced) -> None:
        if event.sku == "poison":
            raise ValueError("cannot take it")

    await world.place("a", "poison", "b")
    world.topics.put(Partition("order", 0), value=b"foreign")
    async with world.running():
        await world.caught_up()
    name = world.subscriptions.handlers[0].name
    assert metrics.value(HANDLER_RETRIES, "shop", name) == 5
    assert metrics.value(DEAD_LETTERS, "shop", name) == 1
    assert metrics.value(DEAD_LETTERS, "shop", "(none)") == 1
    assert metrics.value(MESSAGES_HANDLED, "shop") == 3


async def test_messages_in_lanes_are_measured_as_well() -> None:
    metrics = MemoryMetrics()
    world = World(partition_count=1, metrics=metrics)

    @world.subscriptions.on(OrderPlaced, lanes=4)
    async def note(event: OrderPlaced) -> None:
        await world.clock.sleep(0.001)

    await world.place(*(f"s{number}" for number in range(20)))
    async with world.running():
        await world.caught_up()
    name = world.subscriptions.handlers[0].name
    assert metrics.value(MESSAGES_HANDLED, "shop") == 20
    assert metrics.value(HANDLER_CALLS, "shop", name) == 20
    assert metrics.value(HANDLER_SECONDS, "shop", name) > 0
