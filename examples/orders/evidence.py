"""What the checks judge: both logs, every Kafka record and every read model, read without Headwater's read side.

The logs are read with plain SQL from the view `headwater.log`, Kafka with a plain aiokafka consumer and the headers as they are. `collect.py`
adds the rows of the read models.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from headwater.postgres import Connection, Database

TOPICS: Final = ("order", "reservation", "stock")
KAFKA_TIMEOUT_SECONDS: Final = 30.0
POLL_INTERVAL_SECONDS: Final = 0.02

Position = tuple[int, int]
"""Epoch and position, as Kafka's headers write them: `epoch:position`."""
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
    orders: Log
    inventory: Log
    records: tuple[KafkaRecord, ...]
    """In the order of their offsets within each partition."""
    order_status: Mapping[str, Row]
    stock_level: Mapping[str, Row]
    customer_orders: Mapping[str, Row]
    differences: Mapping[str, list[str]] = field(default_factory=dict[str, list[str]])
    """By read model: what `service.verify` found."""


# -- the logs ---------------------------------------------------------------------------------------------------------


async def read_log(connection: Connection) -> Log:
    """The whole log of a database."""
    rows = await connection.fetch(
        "SELECT global_position, stream_name, version, type, data, event_id FROM headwater.log ORDER BY global_position"
    )
    log_id = await connection.fetchval("SELECT log_id FROM headwater.log_epochs LIMIT 1")
    events = (
        LoggedEvent(r["global_position"], r["stream_name"], r["version"], r["type"], json.loads(r["data"]), str(r["event_id"]))
        for r in rows
    )
    return Log(log_id=str(log_id), events=tuple(events))


async def count_events(database: Database) -> Counter[str]:
    """How many events of each type the log holds."""
    async with database.connection() as connection:
        rows = await connection.fetch("SELECT type, count(*) AS events FROM headwater.events GROUP BY type")
    return Counter({row["type"]: row["events"] for row in rows})


async def unanswered_orders(database: Database, limit: int = 5) -> list[str]:
    """A few streams that hold an order and no answer."""
    async with database.connection() as connection:
        rows = await connection.fetch(
            "SELECT stream_name FROM headwater.log WHERE stream_name LIKE 'order-%' GROUP BY stream_name HAVING max(version) = 1 LIMIT $1",
            limit,
        )
    return [row["stream_name"] for row in rows]


# -- Kafka ------------------------------------------------------------------------------------------------------------


class KafkaTail:
    """Counts the records of the case's topics while they come in."""

    def __init__(self, bootstrap: str) -> None:
        self._consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="earliest")
        self._followed: set[str] = set()
        self._seen: set[tuple[TopicPartition, int]] = set()

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
            return await _read_to_end(consumer, sorted(consumer.assignment()))
    finally:
        await consumer.stop()


async def _read_to_end(consumer: AIOKafkaConsumer, partitions: list[TopicPartition]) -> tuple[KafkaRecord, ...]:
    await consumer.seek_to_beginning(*partitions)
    ends = await consumer.end_offsets(partitions)
    records: list[KafkaRecord] = []
    unread = {partition for partition in partitions if ends[partition] > 0}
    while unread:
        for partition, batch in (await consumer.getmany(*unread, timeout_ms=500)).items():
            records += [record_of(record) for record in batch if record.offset < ends[partition]]
        # The last offsets may be a relay's markers, which a consumer steps over without showing them.
        unread = {partition for partition in unread if await consumer.position(partition) < ends[partition]}
    return tuple(records)


def record_of(record: ConsumerRecord[bytes, bytes]) -> KafkaRecord:
    """What a record says of itself."""
    headers = {name: value.decode() for name, value in record.headers}
    return KafkaRecord(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        stream_name=(record.key or b"").decode(),
        log_id=headers.get("headwater-log", ""),
        event_id=headers.get("ce_id", ""),
        type=headers.get("ce_type", ""),
        position=_position(headers.get("headwater-position", "0:0")),
        previous=_position(headers.get("headwater-previous", "0:0")),
        version=int(headers.get("headwater-version", "0")),
        data=json.loads(record.value or b"{}"),
    )


def _position(text: str) -> Position:
    epoch, _, position = text.partition(":")
    return int(epoch), int(position)
