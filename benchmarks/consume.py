"""Consume: from Kafka to a typed handler whose effect, one SQL statement for each event, is stored exactly once."""

# aiokafka ships no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import count
from time import perf_counter
from typing import Any, Final, TypeAlias

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition

from benchmarks.kafka_records import PARTITION_COUNT, make_topic, produce_raw, raw_producer, records_of_log
from benchmarks.log_read import fill_log
from benchmarks.measure import HEADWATER, Comparison, Comparisons, Contender, Sample
from benchmarks.orders import OrderPlaced, mean_bytes, orders, placed_in
from benchmarks.scale import Scale
from benchmarks.servers import Servers, new_category
from headwater.bus import BatchContext, Consumer, ConsumerLimits, Context, KafkaSource, PostgresEffects, SourceRecord, Subscriptions
from headwater.eventstore import PostgresEventStore
from headwater.kafka import JSON_DECODER, KafkaSettings, Partition, ValueDecoder
from headwater.postgres import Database

BATCH_SIZE: Final = ConsumerLimits().batch_size_max
"""Events in one transaction, on both sides."""
RAW_FETCH_SIZE: Final = 2_000
FETCH_BYTES_MAX: Final = 16 * 1024 * 1024
"""As Headwater's consumer fetches."""
FETCH_WAIT_MILLISECONDS: Final = 10
"""A fetch that waits at the topic's end would hold up the next round."""
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


async def compare_consume(servers: Servers, scale: Scale) -> Comparisons:
    """A topic from its beginning, each turn in a group of its own, beside aiokafka with the same validation, without and with the same SQL."""
    category = new_category()
    event_class = placed_in(category)
    events = orders(event_class)
    async with servers.database() as database, servers.topics([category]):
        await fill_log(database, events, scale.topic_events)
        await make_topic(servers.bootstrap, category)
        async with raw_producer(servers.bootstrap) as producer:
            await produce_raw(producer, category, await records_of_log(PostgresEventStore(database)))
        own = await database.connect()
        try:
            await own.execute(CREATE_EFFECTS)
            async with kafka_reader(servers.bootstrap, category) as to_nowhere, kafka_reader(servers.bootstrap, category) as to_sql:
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
                        Contender(
                            HEADWATER,
                            consumer_turns(servers.bootstrap, database, own, _together(event_class), EFFECTS, scale.topic_events),
                            {"handler": "takes a list"},
                        ),
                        Contender(
                            "headwater, an event at a time",
                            consumer_turns(servers.bootstrap, database, own, _one_by_one(event_class), EFFECTS, scale.topic_events),
                        ),
                        Contender(
                            "raw aiokafka",
                            raw_turns(to_nowhere, RAW_FETCH_SIZE, _validate, scale.topic_events),
                            {"batch": RAW_FETCH_SIZE, "effect": "none"},
                        ),
                        Contender("raw aiokafka + asyncpg", raw_turns(to_sql, BATCH_SIZE, await _storing(own), scale.topic_events)),
                    ],
                )
        finally:
            await own.close()


@dataclass(frozen=True, slots=True)
class Consumed:
    """How to see what a group's handlers have stored."""

    clear: str
    count: str
    """A query for how many events had their effect."""


EFFECTS: Final = Consumed(CLEAR_EFFECTS, COUNT_EFFECTS)
Register: TypeAlias = Callable[[Subscriptions, Callable[[int], None]], None]
"""Registers handlers, which call the second argument with how many events they handled."""


class _TimedSource(KafkaSource):
    """Knows when the first records came."""

    began = 0.0

    async def receive(self, *, limit: int, timeout_seconds: float) -> Mapping[Partition, Sequence[SourceRecord]]:
        received = await super().receive(limit=limit, timeout_seconds=timeout_seconds)
        if received and not self.began:
            self.began = perf_counter()
        return received


def consumer_turns(
    bootstrap: str,
    database: Database,
    own: asyncpg.Connection[asyncpg.Record],
    register: Register,
    consumed: Consumed,
    event_count: int,
    values: ValueDecoder = JSON_DECODER,
) -> Sample:
    """Headwater's consumer over the topic from its beginning, each turn in a group of its own."""
    groups, prefix = count(1), new_category()

    async def sample(_: float) -> float:
        """From the first records received to the last commit; joining the group is not counted."""
        await own.execute(consumed.clear)
        handled, all_handled, subscriptions = 0, asyncio.Event(), Subscriptions()

        def tell(event_count_now: int) -> None:
            nonlocal handled
            handled += event_count_now
            if handled == event_count:
                all_handled.set()

        register(subscriptions, tell)
        group = f"bench-{prefix}-{next(groups)}"
        source = _TimedSource(KafkaSettings.parse(bootstrap), group=group)
        effects = PostgresEffects(database, PostgresEventStore(database))
        consumer = Consumer(group=group, subscriptions=subscriptions, source=source, effects=effects, values=values)
        running = asyncio.create_task(consumer.run())
        try:
            async with asyncio.timeout(TURN_SECONDS_MAX):
                await all_handled.wait()
                while await own.fetchval(consumed.count) < event_count:  # noqa: ASYNC110 - nobody is told of a commit
                    await asyncio.sleep(COMMIT_POLL_SECONDS)
            return event_count / (perf_counter() - source.began)
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running

    return sample


def _one_by_one(event_class: type[OrderPlaced]) -> Register:
    def register(subscriptions: Subscriptions, handled: Callable[[int], None]) -> None:
        @subscriptions.on(event_class)
        async def store(event: OrderPlaced, context: Context) -> None:
            handled(1)
            await context.connection.execute(STORE_EFFECT, event.order_id, sum(line.quantity for line in event.lines))

    return register


def _together(event_class: type[OrderPlaced]) -> Register:
    def register(subscriptions: Subscriptions, handled: Callable[[int], None]) -> None:
        @subscriptions.on(event_class)
        async def store(events: list[OrderPlaced], context: BatchContext) -> None:
            rows = [(event.order_id, sum(line.quantity for line in event.lines)) for event in events]
            await context.connection.executemany(STORE_EFFECT, rows)
            handled(len(events))

    return register


@asynccontextmanager
async def kafka_reader(bootstrap: str, topic: str) -> AsyncGenerator[AIOKafkaConsumer]:
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, fetch_max_bytes=FETCH_BYTES_MAX, fetch_max_wait_ms=FETCH_WAIT_MILLISECONDS)
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, number) for number in range(PARTITION_COUNT)])
        consumer.pause(*consumer.assignment())
        yield consumer
    finally:
        await consumer.stop()


def raw_turns(consumer: AIOKafkaConsumer, fetch_size: int, work: Callable[[list[Any]], Awaitable[None]], topic_events: int) -> Sample:
    async def sample(seconds: float) -> float:
        """The topic over and over, each time from the first records received to the end; seeking is not counted."""
        event_count, worked = 0, 0.0
        consumer.resume(*consumer.assignment())
        while worked < seconds:
            await consumer.seek_to_beginning()
            began, received = 0.0, 0
            while received < topic_events:
                fetched = await consumer.getmany(timeout_ms=1_000, max_records=fetch_size)
                began = began or perf_counter()
                records = [record for ours in fetched.values() for record in ours]
                await work(records)
                received += len(records)
            worked += perf_counter() - began
            event_count += received
        consumer.pause(*consumer.assignment())  # an idle consumer goes on fetching, at the next system's cost
        return event_count / worked

    return sample


async def _validate(records: list[Any]) -> None:
    for record in records:
        OrderPlaced.model_validate_json(record.value)


async def _storing(connection: asyncpg.Connection[asyncpg.Record]) -> Callable[[list[Any]], Awaitable[None]]:
    effect = await connection.prepare(STORE_EFFECT)

    async def store(records: list[Any]) -> None:
        async with connection.transaction():
            for record in records:
                event = OrderPlaced.model_validate_json(record.value)
                await effect.fetchval(event.order_id, sum(line.quantity for line in event.lines))

    return store
