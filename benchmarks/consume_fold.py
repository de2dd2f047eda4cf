"""Consume, folded: from Kafka to a typed handler of Avro events that keeps a sum for each customer in PostgreSQL, once for each event."""

# aiokafka ships no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
import io
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from itertools import count
from typing import Any, Final

import asyncpg
import fastavro
from faststream.kafka import KafkaBroker

from benchmarks.consume import (
    BATCH_SIZE,
    FETCH_BYTES_MAX,
    RAW_FETCH_SIZE,
    TURN_SECONDS_MAX,
    Consumed,
    consumer_turns,
    kafka_reader,
    raw_turns,
)
from benchmarks.kafka_records import PARTITION_COUNT, avro_encoder, kafka_settings, make_topic, produce_raw, raw_producer, records_of_log
from benchmarks.log_read import fill_log
from benchmarks.measure import HEADWATER, Comparison, Comparisons, Contender, Sample
from benchmarks.orders import OrderPlaced, mean_bytes, orders, placed_in
from benchmarks.scale import Scale
from benchmarks.servers import Servers, new_category
from headwater.bus import BatchContext, Subscriptions
from headwater.eventstore import PostgresEventStore
from headwater.postgres import Database
from headwater.schemas import FRAME_BYTES, AvroDecoder, KafkaSchemaBoard, avro_schema

CREATE_FOLD: Final = """
CREATE TABLE fold (
    customer_id text    NOT NULL PRIMARY KEY,
    event_count bigint  NOT NULL,
    units       bigint  NOT NULL
)
"""
STORE_FOLD: Final = """
INSERT INTO fold AS f (customer_id, event_count, units)
SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[])
ON CONFLICT (customer_id) DO UPDATE SET event_count = f.event_count + excluded.event_count, units = f.units + excluded.units
"""
FOLD: Final = Consumed(clear="TRUNCATE fold", count="SELECT coalesce(sum(event_count), 0) FROM fold")


async def compare_consume_fold(servers: Servers, scale: Scale) -> Comparisons:
    """The same events as Avro, and for the framework without a database as JSON, each turn from the beginning of the topic."""
    category, json_topic = new_category(), new_category()
    event_class = placed_in(category)
    events, event_count = orders(event_class), scale.fold_events
    async with servers.database() as database, servers.topics([category, json_topic]), AsyncExitStack() as stack:
        await _fill_topics(servers.bootstrap, database, event_class, json_topic, event_count)
        own = await database.connect()
        stack.push_async_callback(own.close)
        await own.execute(CREATE_FOLD)
        reader = await stack.enter_async_context(kafka_reader(servers.bootstrap, category))
        yield Comparison(
            bench="consume_fold",
            conditions={
                "callers": 1,
                "batch": BATCH_SIZE,
                "bytes": mean_bytes(events),
                "durable": True,
                "format": "avro",
                "partitions": PARTITION_COUNT,
                "effect": "a fold, one statement for each batch",
            },
            contenders=[
                Contender(HEADWATER, _headwater_turns(servers.bootstrap, database, own, event_class, event_count)),
                Contender(
                    "raw aiokafka, Avro and pydantic",
                    raw_turns(reader, RAW_FETCH_SIZE, _validating(event_class), event_count),
                    {"batch": RAW_FETCH_SIZE, "effect": "none"},
                ),
                Contender(
                    "FastStream, typed JSON",
                    _faststream_turns(servers.bootstrap, json_topic, event_class, event_count),
                    {"batch": 1, "format": "json", "effect": "none", "durable": False},
                ),
            ],
        )


async def _fill_topics(bootstrap: str, database: Database, event_class: type[OrderPlaced], json_topic: str, event_count: int) -> None:
    await fill_log(database, orders(event_class), event_count)
    store = PostgresEventStore(database)
    async with raw_producer(bootstrap) as producer:
        for topic, values in ((event_class.event_category, avro_encoder(database, bootstrap, event_class)), (json_topic, None)):
            await make_topic(bootstrap, topic)
            await produce_raw(producer, topic, await (records_of_log(store, values) if values is not None else records_of_log(store)))


def _headwater_turns(
    bootstrap: str, database: Database, own: asyncpg.Connection[asyncpg.Record], event_class: type[OrderPlaced], event_count: int
) -> Sample:
    def register(subscriptions: Subscriptions, handled: Callable[[int], None]) -> None:
        @subscriptions.on(event_class)
        async def fold(events: list[OrderPlaced], context: BatchContext) -> None:
            counts, units = Counter[str](), Counter[str]()
            for event in events:
                counts[event.customer_id] += 1
                units[event.customer_id] += sum(line.quantity for line in event.lines)
            customers = sorted(counts)
            await context.connection.execute(
                STORE_FOLD, customers, [counts[customer] for customer in customers], [units[customer] for customer in customers]
            )
            handled(len(events))

    board = KafkaSchemaBoard(kafka_settings(bootstrap))
    return consumer_turns(bootstrap, database, own, register, FOLD, event_count, AvroDecoder(board))


def _validating(event_class: type[OrderPlaced]) -> Callable[[list[Any]], Awaitable[None]]:
    schema = fastavro.parse_schema(dict(avro_schema(event_class)))

    async def validate(records: list[Any]) -> None:
        for record in records:
            content = io.BytesIO(record.value)
            content.seek(FRAME_BYTES)
            event_class.model_validate(fastavro.schemaless_reader(content, schema, None))

    return validate


def _faststream_turns(bootstrap: str, topic: str, event_class: type[OrderPlaced], event_count: int) -> Sample:
    groups = count(1)

    async def sample(_: float) -> float:
        """From the first call of the handler to the last; joining the group is not counted."""
        loop = asyncio.get_running_loop()
        began, handled, all_handled = 0.0, 0, asyncio.Event()
        broker = KafkaBroker(bootstrap, logger=None)

        async def handle(_event: Any) -> None:
            nonlocal began, handled
            began, handled = began or loop.time(), handled + 1
            if handled == event_count:
                all_handled.set()

        handle.__annotations__ = {"_event": event_class, "return": None}
        broker.subscriber(topic, group_id=f"bench-{topic}-{next(groups)}", auto_offset_reset="earliest", fetch_max_bytes=FETCH_BYTES_MAX)(
            handle
        )
        async with broker:
            await broker.start()
            async with asyncio.timeout(TURN_SECONDS_MAX):
                await all_handled.wait()
            return event_count / (loop.time() - began)

    return sample
