"""Consume: from Kafka to a typed handler whose effect, one SQL statement for each event, is stored exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from itertools import count
from time import perf_counter
from typing import Any, Final

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition

from benchmarks.kafka_records import PARTITION_COUNT, make_topic, produce_raw, raw_producer, records_of_log
from benchmarks.log_read import fill_log
from benchmarks.measure import HEADWATER, Comparison, Comparisons, Contender, Sample, in_loops
from benchmarks.orders import OrderPlaced, mean_bytes, orders, placed_in
from benchmarks.servers import Servers, new_category
from headwater.bus import Consumer, ConsumerLimits, Context, KafkaSource, PostgresEffects, Subscriptions
from headwater.eventstore import PostgresEventStore
from headwater.postgres import Database

EVENT_COUNT: Final = 10_000
BATCH_SIZE: Final = ConsumerLimits().batch_size_max
"""Events in one transaction, on both sides."""
RAW_FETCH_SIZE: Final = 2_000
COMMIT_POLL_SECONDS: Final = 0.001
TURN_SECONDS_MAX: Final = 120.0

CREATE_EFFECTS: Final = """
CREATE TABLE effects (
    order_id    uuid    NOT NULL PRIMARY KEY,
    event_count bigint  NOT NULL,
    units       bigint  NOT NULL
)
"""
STORE_EFFECT: Final = """
INSERT INTO effects AS e (order_id, event_count, units)
VALUES ($1, 1, $2)
ON CONFLICT (order_id) DO UPDATE SET event_count = e.event_count + 1, units = e.units + excluded.units
"""
CLEAR_EFFECTS: Final = "TRUNCATE effects"
COUNT_EFFECTS: Final = "SELECT coalesce(sum(event_count), 0) FROM effects"


async def compare_consume(servers: Servers) -> Comparisons:
    """A topic from its beginning, each turn in a group of its own, beside aiokafka with the same validation, without and with the same SQL."""
    category = new_category()
    event_class = placed_in(category)
    events = orders(event_class)
    async with servers.database() as database, servers.topics([category]):
        await fill_log(database, events, EVENT_COUNT)
        await make_topic(servers.bootstrap, category)
        async with raw_producer(servers.bootstrap) as producer:
            await produce_raw(producer, category, await records_of_log(PostgresEventStore(database)))
        own = await database.connect()
        try:
            await own.execute(CREATE_EFFECTS)
            async with _reader(servers.bootstrap, category) as to_nowhere, _reader(servers.bootstrap, category) as to_sql:
                yield Comparison(
                    bench="consume",
                    conditions={
                        "callers": 1,
                        "batch": BATCH_SIZE,
                        "bytes": mean_bytes(events),
                        "durable": True,
                        "format": "json",
                        "partitions": PARTITION_COUNT,
                        "effect": "one upsert per event",
                    },
                    contenders=[
                        Contender(HEADWATER, _consumer_turns(servers.bootstrap, database, own, event_class)),
                        Contender("raw aiokafka", in_loops([_validate_all(to_nowhere)]), {"batch": RAW_FETCH_SIZE, "effect": "none"}),
                        Contender("raw aiokafka + asyncpg", in_loops([await _store_all(to_sql, own)])),
                    ],
                )
        finally:
            await own.close()


def _consumer_turns(
    bootstrap: str, database: Database, own: asyncpg.Connection[asyncpg.Record], event_class: type[OrderPlaced]
) -> Sample:
    groups = count(1)

    async def sample(_: float) -> float:
        """From the first call of the handler to the last commit; joining the group is not counted."""
        await own.execute(CLEAR_EFFECTS)
        began, handled, subscriptions = 0.0, 0, Subscriptions()

        @subscriptions.on(event_class)
        async def store(event: OrderPlaced, context: Context) -> None:
            nonlocal began, handled
            began, handled = began or perf_counter(), handled + 1
            await context.connection.execute(STORE_EFFECT, event.order_id, sum(line.quantity for line in event.lines))

        group = f"bench-{event_class.event_category}-{next(groups)}"
        effects = PostgresEffects(database, PostgresEventStore(database))
        consumer = Consumer(group=group, subscriptions=subscriptions, source=KafkaSource(bootstrap, group=group), effects=effects)
        running = asyncio.create_task(consumer.run())
        try:
            async with asyncio.timeout(TURN_SECONDS_MAX):
                while handled < EVENT_COUNT or await own.fetchval(COUNT_EFFECTS) < EVENT_COUNT:
                    await asyncio.sleep(COMMIT_POLL_SECONDS)
            return EVENT_COUNT / (perf_counter() - began)
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running

    return sample


@asynccontextmanager
async def _reader(bootstrap: str, topic: str) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, fetch_max_bytes=16 << 20)
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, number) for number in range(PARTITION_COUNT)])
        yield consumer
    finally:
        await consumer.stop()


async def _records(consumer: AIOKafkaConsumer, fetch_size: int) -> AsyncIterator[list[Any]]:
    """The whole topic once, a fetch at a time."""
    await consumer.seek_to_beginning()
    received = 0
    while received < EVENT_COUNT:
        fetched = await consumer.getmany(timeout_ms=1_000, max_records=fetch_size)
        records = [record for ours in fetched.values() for record in ours]
        received += len(records)
        yield records


def _validate_all(consumer: AIOKafkaConsumer) -> Callable[[], Awaitable[int]]:
    async def validate_all() -> int:
        async for records in _records(consumer, RAW_FETCH_SIZE):
            for record in records:
                OrderPlaced.model_validate_json(record.value)
        return EVENT_COUNT

    return validate_all


async def _store_all(consumer: AIOKafkaConsumer, connection: asyncpg.Connection[asyncpg.Record]) -> Callable[[], Awaitable[int]]:
    effect = await connection.prepare(STORE_EFFECT)

    async def store_all() -> int:
        await connection.execute(CLEAR_EFFECTS)
        async for records in _records(consumer, BATCH_SIZE):
            async with connection.transaction():
                for record in records:
                    event = OrderPlaced.model_validate_json(record.value)
                    await effect.fetchval(event.order_id, sum(line.quantity for line in event.lines))
        return EVENT_COUNT

    return store_all
