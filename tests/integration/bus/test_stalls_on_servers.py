"""A stuck consumer is replaced on real servers, and its effects stay exactly once; quiet topics raise no false alarm."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from structlog.testing import capture_logs

from headwater.bus import Consumer, Context
from headwater.kafka import FencedProducer, KafkaSettings, Partition
from headwater.postgres import Database
from headwater.supervision import Supervisor, Worker, supervised
from headwater.testing import eventually
from tests.integration.bus.feeding import PARTITION_COUNT, Feeder
from tests.integration.bus.test_kafka_postgres import Shop, note

STALL_SECONDS_MAX = 3.0


@contextmanager
def releasing(event: asyncio.Event) -> Iterator[None]:
    """However the test ends, what waits for this may end, too."""
    try:
        yield
    finally:
        event.set()


@pytest.fixture
async def shop(database: Database, kafka_bootstrap: str) -> Shop:
    async with database.connection() as connection:
        await connection.execute("CREATE TABLE effects (id bigint GENERATED ALWAYS AS IDENTITY, stream text, sku text)")
    return Shop(database, kafka_bootstrap)


async def test_a_handler_that_never_returns_is_left_behind_and_every_message_takes_effect_once(shop: Shop) -> None:
    may_return, blocked = asyncio.Event(), []

    @shop.subscriptions.on(shop.placed)
    async def reserve(event: Any, context: Context) -> None:
        connection = context.connection
        if event.sku == "7" and not blocked:
            blocked.append(asyncio.current_task())
            while not may_return.is_set():
                with suppress(asyncio.CancelledError):
                    await may_return.wait()
        await connection.execute("INSERT INTO effects (stream, sku) VALUES ($1, $2)", context.stream_name, event.sku)

    made: list[Consumer] = []

    def make() -> Consumer:
        made.append(shop.member())
        return made[-1]

    expected = [str(number) for number in range(30)]
    async with Feeder(shop.bootstrap, [shop.category]) as feeder:
        await feeder.feed(*(shop.fact(int(sku) % 5, sku) for sku in expected))
    supervisor = Supervisor([Worker("consumer", make)], stall_seconds_max=STALL_SECONDS_MAX)
    with capture_logs() as facts, releasing(may_return):
        async with supervised(supervisor):

            async def all_are_there() -> bool:
                return sorted(await shop.skus()) == sorted(expected)

            await eventually(all_are_there, timeout=60)
            assert len(made) == 2
            # What was left behind goes on now, in a transaction that may not be committed any more.
            may_return.set()
            await eventually(blocked[0].done, timeout=30)
    assert sorted(await shop.skus()) == sorted(expected)
    (told,) = [fact for fact in facts if fact["event"] == "worker_stalled"]
    assert told["log_level"] == "error"
    assert "reserve" in told["error"]


async def test_markers_at_the_end_of_a_quiet_partition_are_no_lag(shop: Shop) -> None:
    """A relay that takes over writes a marker into every partition; it takes an offset, and no reader ever gets it."""
    note(shop)
    partitions = [Partition(shop.category, number) for number in range(PARTITION_COUNT)]
    async with Feeder(shop.bootstrap, [shop.category]) as feeder:
        await feeder.feed(shop.fact(1, "a"))
    async with shop.running() as consumer:

        async def lag() -> int:
            lags = await consumer.lags()
            assert len(lags) == PARTITION_COUNT
            return sum(each.record_count for each in lags)

        async def has_none() -> bool:
            return await lag() == 0

        await eventually(has_none, timeout=30)
        producer = await FencedProducer.open(KafkaSettings.parse(shop.bootstrap), transactional_id=shop.group, partitions=partitions)
        await producer.abandon()
        await eventually(has_none, timeout=30)
        assert [each.seconds for each in await consumer.lags()] == [0.0] * PARTITION_COUNT
