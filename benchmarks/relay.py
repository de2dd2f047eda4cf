"""Relay: from the log to acknowledged in Kafka, as JSON and as Avro."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from time import perf_counter
from typing import Final

import asyncpg

from benchmarks.kafka_records import (
    EVENT_SOURCE,
    PARTITION_COUNT,
    avro_encoder,
    kafka_settings,
    make_topic,
    produce_raw,
    raw_producer,
    records_of_log,
)
from benchmarks.log_read import EVENTS_PER_STREAM, PAGE_SIZE, fill_log
from benchmarks.measure import HEADWATER, Comparison, Comparisons, Contender, in_loops
from benchmarks.orders import OrderPlaced, mean_bytes, orders, placed_in
from benchmarks.relay_raw import avro_value, json_value, move_raw
from benchmarks.scale import Scale
from benchmarks.servers import Servers, new_category
from headwater.eventstore import PostgresEventStore
from headwater.kafka import JSON_ENCODER, Partition, ValueEncoder
from headwater.outbox import (
    FencedWriter,
    KafkaRelayBroker,
    PostgresRelayPositions,
    Relay,
    RelayBatch,
    RelayBroker,
    RelayOptions,
    TailReader,
)
from headwater.postgres import Database

SLICE_SIZE: Final = RelayOptions().slice_events_max
EVENTS_PER_WORKING_SECOND: Final = 25_000
"""How much is committed for the relay to move in a turn, for each second that the turn shall take."""
RAW_EVENT_COUNT: Final = 10 * PAGE_SIZE
"""What the raw producer sends before it waits for all acknowledgements."""
ARRIVAL_SECONDS_MAX: Final = 60.0


async def compare_relay(servers: Servers, _scale: Scale) -> Comparisons:
    """A relay that runs, given the same work again and again, beside an idempotent producer of the same bytes in batches."""
    async for comparison in _compare(servers, "json"):
        yield comparison


async def compare_relay_avro(servers: Servers, _scale: Scale) -> Comparisons:
    """The same, with values in Avro and its logical types."""
    async for comparison in _compare(servers, "avro"):
        yield comparison


async def _compare(servers: Servers, value_format: str) -> Comparisons:
    category, raw_topic = new_category(), new_category()
    event_class = placed_in(category)
    events = orders(event_class)
    async with servers.database() as database, servers.topics([category, raw_topic]):
        await fill_log(database, events, RAW_EVENT_COUNT)
        values = avro_encoder(database, servers.bootstrap, event_class) if value_format == "avro" else JSON_ENCODER
        records = await records_of_log(PostgresEventStore(database), values)
        await make_topic(servers.bootstrap, raw_topic)
        async with (
            _running_relay(database, servers.bootstrap, values) as work,
            raw_producer(servers.bootstrap) as producer,
            _own_connection(database) as own,
        ):
            await work.arrived(RAW_EVENT_COUNT)

            encode = json_value if value_format == "json" else avro_value(event_class)

            async def produce() -> int:
                return await produce_raw(producer, raw_topic, records)

            async def move() -> int:
                return await move_raw(own, producer, raw_topic, encode, RAW_EVENT_COUNT)

            yield Comparison(
                bench="relay" if value_format == "json" else "relay_avro",
                conditions={
                    "callers": 1,
                    "batch": SLICE_SIZE,
                    "bytes": mean_bytes(events),
                    "durable": True,
                    "format": value_format,
                    "partitions": PARTITION_COUNT,
                },
                contenders=[
                    Contender(HEADWATER, _RelayTurns(database, work, events).sample),
                    Contender("raw aiokafka", in_loops([produce]), {"batch": RAW_EVENT_COUNT}),
                    Contender("raw asyncpg + aiokafka", in_loops([move])),
                ],
            )


@asynccontextmanager
async def _own_connection(database: Database) -> AsyncGenerator[asyncpg.Connection[asyncpg.Record]]:
    connection = await database.connect()
    try:
        yield connection
    finally:
        await connection.close()


class _RelayTurns:
    """Commits work for the relay in one transaction, and stops the time from that commit to the last acknowledgement."""

    def __init__(self, database: Database, work: RelayedEvents, events: tuple[OrderPlaced, ...]) -> None:
        self._database, self._work, self._events = database, work, events
        self._next_stream = 1 + RAW_EVENT_COUNT // EVENTS_PER_STREAM

    async def sample(self, seconds: float) -> float:
        """Move as many as should take about that long."""
        event_count = max(PAGE_SIZE, round(seconds * EVENTS_PER_WORKING_SECOND / PAGE_SIZE) * PAGE_SIZE)
        target = self._work.acknowledged + event_count
        await fill_log(self._database, self._events, event_count, first_stream=self._next_stream)
        self._next_stream += event_count // EVENTS_PER_STREAM
        began = perf_counter()
        self._work.relay.wake()
        await self._work.arrived(target)
        return event_count / (perf_counter() - began)


@dataclass(slots=True)
class RelayedEvents:
    """A running relay, and how many records Kafka has acknowledged to it."""

    relay: Relay
    broker: CountingBroker

    @property
    def acknowledged(self) -> int:
        return self.broker.acknowledged

    async def arrived(self, record_count: int) -> None:
        """Wait until Kafka has acknowledged that many in all."""
        async with asyncio.timeout(ARRIVAL_SECONDS_MAX):
            while self.broker.acknowledged < record_count:
                self.broker.moved.clear()
                await self.broker.moved.wait()


@dataclass(slots=True)
class CountingBroker:
    """A relay's broker that counts what Kafka acknowledged."""

    inner: RelayBroker
    acknowledged: int = 0
    moved: asyncio.Event = field(default_factory=asyncio.Event)

    async def ensure_topics(self, names: Iterable[str]) -> Mapping[str, int]:
        return await self.inner.ensure_topics(names)

    async def fence(self, transactional_id: str, partitions: Sequence[Partition]) -> FencedWriter:
        return _CountingWriter(await self.inner.fence(transactional_id, partitions), self)

    def open_reader(self) -> AbstractAsyncContextManager[TailReader]:
        return self.inner.open_reader()


@dataclass(slots=True)
class _CountingWriter:
    inner: FencedWriter
    counts: CountingBroker

    def new_batch(self) -> RelayBatch:
        return self.inner.new_batch()

    async def send(self, partition: Partition, batch: RelayBatch) -> int:
        offset = await self.inner.send(partition, batch)
        self.counts.acknowledged += batch.record_count
        self.counts.moved.set()
        return offset

    async def abandon(self) -> None:
        await self.inner.abandon()


@asynccontextmanager
async def _running_relay(database: Database, bootstrap: str, values: ValueEncoder = JSON_ENCODER) -> AsyncGenerator[RelayedEvents]:
    broker = CountingBroker(KafkaRelayBroker(kafka_settings(bootstrap)))
    relay = Relay(PostgresEventStore(database), broker, PostgresRelayPositions(database), event_source=EVENT_SOURCE, values=values)
    running = asyncio.create_task(relay.run())
    try:
        yield RelayedEvents(relay, broker)
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
