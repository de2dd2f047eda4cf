"""What the checks judge: every log, every Kafka record, every read model and every saga.

The logs are read with plain SQL from the view `headwater.log`, Kafka with a plain aiokafka consumer, whose records Headwater decodes. `collect.py`
adds the rows of the read models.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Self

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from headwater.kafka import KafkaSettings, ValueDecoder, decode_record
from headwater.postgres import Connection, Database
from headwater.schemas import AvroDecoder, KafkaSchemaBoard

TOPICS: Final = ("order", "stock", "reservation", "payment", "shipment", "to_inventory", "to_payment", "to_shipping")
KAFKA_TIMEOUT_SECONDS: Final = 30.0
POLL_INTERVAL_SECONDS: Final = 0.02

Position = tuple[int, int]
"""Epoch and position."""
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """One row of a log."""

    global_position: int
    stream_name: str
    version: int
    type: str
    data: Mapping[str, Any]
    event_id: str
    recorded_at: datetime

    @property
    def category(self) -> str:
        return self.stream_name.partition("-")[0]


@dataclass(frozen=True, slots=True)
class Log:
    """A service's log from its first event to its last."""

    log_id: str
    events: tuple[LoggedEvent, ...]

    def streams(self, category: str) -> dict[str, list[LoggedEvent]]:
        """The events of each stream of a category, in order of version."""
        streams: dict[str, list[LoggedEvent]] = {}
        for event in sorted(self.events, key=lambda event: event.version):
            if event.category == category:
                streams.setdefault(event.stream_name, []).append(event)
        return streams


@dataclass(frozen=True, slots=True)
class KafkaRecord:
    """One record, with what its headers say."""

    topic: str
    partition: int
    offset: int
    stream_name: str
    log_id: str
    event_id: str
    type: str
    position: Position
    previous: Position
    version: int
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything the checks look at."""

    initial_stock: Mapping[int, int]
    """Units by product, from the catalogue."""
    order_count: int
    logs: Mapping[str, Log]
    """By service."""
    records: tuple[KafkaRecord, ...]
    """In the order of their offsets within each partition."""
    order_status: Mapping[str, Row]
    stock_level: Mapping[str, Row]
    revenue: Mapping[str, Row]
    """By customer and month, `ALFKI 1997-08`."""
    differences: Mapping[str, list[str]]
    """By read model: what `service.verify` found."""
    sagas: Mapping[str, int]
    """How many there are of each status."""
    dead_letters: tuple[str, ...]
    """Messages that a handler gave up on, each in a sentence."""

    @property
    def orders(self) -> dict[str, list[LoggedEvent]]:
        """The events of each order, by its id."""
        return self.by_order("orders", "order")

    def by_order(self, service: str, category: str) -> dict[str, list[LoggedEvent]]:
        """The events of each stream of a category that is named after an order."""
        return {name.removeprefix(f"{category}-"): events for name, events in self.logs[service].streams(category).items()}


# -- the logs ---------------------------------------------------------------------------------------------------------


async def read_log(connection: Connection) -> Log:
    """The whole log of a database."""
    rows = await connection.fetch(
        "SELECT global_position, stream_name, version, type, data, event_id, recorded_at FROM headwater.log ORDER BY global_position"
    )
    log_id = await connection.fetchval("SELECT log_id FROM headwater.log_epochs LIMIT 1")
    events = (
        LoggedEvent(
            r["global_position"], r["stream_name"], r["version"], r["type"], json.loads(r["data"]), str(r["event_id"]), r["recorded_at"]
        )
        for r in rows
    )
    return Log(log_id=str(log_id), events=tuple(events))


async def count_events(database: Database) -> Counter[str]:
    """How many events of each type the log holds."""
    async with database.connection() as connection:
        rows = await connection.fetch("SELECT type, count(*) AS events FROM headwater.events GROUP BY type")
    return Counter({row["type"]: row["events"] for row in rows})


async def open_orders(database: Database, limit: int = 5) -> list[str]:
    """A few streams of orders that have not ended."""
    async with database.connection() as connection:
        rows = await connection.fetch(
            """
            SELECT stream_name FROM headwater.log WHERE stream_name LIKE 'order-%' AND type LIKE 'Order%'
             GROUP BY stream_name HAVING NOT bool_or(type IN ('OrderConfirmed', 'OrderCancelled')) LIMIT $1
            """,
            limit,
        )
    return [row["stream_name"] for row in rows]


async def next_offsets(database: Database) -> dict[tuple[str, int], int]:
    """How far a service's handlers got in each partition of their topics."""
    async with database.connection() as connection:
        rows = await connection.fetch("SELECT topic, partition, next_offset FROM headwater.consumer_positions")
    return {(row["topic"], row["partition"]): row["next_offset"] for row in rows}


# -- Kafka ------------------------------------------------------------------------------------------------------------


class KafkaTail:
    """Counts the records of the case's topics while they come in."""

    def __init__(self, bootstrap: str) -> None:
        self._consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="earliest")
        self._followed: set[str] = set()
        self._seen: set[tuple[TopicPartition, int]] = set()
        self.ends: dict[tuple[str, int], int] = {}
        """By topic and partition: the offset after the last record seen."""

    async def __aenter__(self) -> Self:
        await self._consumer.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._consumer.stop()

    async def count(self) -> int:
        """How many records there are by now."""
        if len(self._followed) < len(TOPICS) and (new := await self._consumer.topics() & set(TOPICS) - self._followed):
            self._followed |= new
            self._consumer.subscribe(sorted(self._followed))
        if self._followed:
            for partition, batch in (await self._consumer.getmany(timeout_ms=0)).items():
                self._seen.update((partition, record.offset) for record in batch)
                self.ends[partition] = max(self.ends.get(partition, 0), batch[-1].offset + 1)
        return len(self._seen)


async def read_kafka(bootstrap: str) -> tuple[KafkaRecord, ...]:
    """Every record of the case's topics, from the first offset to the last there is now."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="earliest")
    await consumer.start()
    try:
        present = sorted(set(TOPICS) & await consumer.topics())
        if not present:
            return ()
        consumer.subscribe(present)
        async with asyncio.timeout(KAFKA_TIMEOUT_SECONDS):
            while {partition.topic for partition in consumer.assignment()} != set(present):  # noqa: ASYNC110 - aiokafka tells nobody
                await asyncio.sleep(POLL_INTERVAL_SECONDS)
            values = AvroDecoder(KafkaSchemaBoard(KafkaSettings.parse(bootstrap)))
            return await _read_to_end(consumer, sorted(consumer.assignment()), values)
    finally:
        await consumer.stop()


async def _read_to_end(consumer: AIOKafkaConsumer, partitions: list[TopicPartition], values: ValueDecoder) -> tuple[KafkaRecord, ...]:
    await consumer.seek_to_beginning(*partitions)
    ends = await consumer.end_offsets(partitions)
    records: list[KafkaRecord] = []
    unread = {partition for partition in partitions if ends[partition] > 0}
    while unread:
        for partition, batch in (await consumer.getmany(*unread, timeout_ms=500)).items():
            await values.prepare(record.value for record in batch)
            records += [record_of(record, values) for record in batch if record.offset < ends[partition]]
        # The last offsets may be a relay's markers, which a consumer steps over without showing them.
        unread = {partition for partition in unread if await consumer.position(partition) < ends[partition]}
    return tuple(records)


def record_of(record: ConsumerRecord[bytes, bytes], values: ValueDecoder) -> KafkaRecord:
    """What a record says, Avro or JSON, decoded as a consumer of Headwater does."""
    envelope = decode_record(record.key, record.value, record.headers, record.timestamp, values=values)
    event = envelope.event
    return KafkaRecord(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        stream_name=event.stream_name,
        log_id=str(envelope.log_id),
        event_id=str(event.event_id),
        type=event.type,
        position=envelope.position,
        previous=envelope.previous,
        version=event.version,
        data=json.loads(event.data),
    )
