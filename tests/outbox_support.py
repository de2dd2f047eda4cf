"""What relay tests share: what must hold of the topics, whatever was done to the relays."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from headwater.eventstore import EventStore, PostgresEventStore
from headwater.kafka import (
    JSON_DECODER,
    JSON_ENCODER,
    Envelope,
    KafkaSettings,
    Partition,
    ValueDecoder,
    ValueEncoder,
    decode_record,
    event_topic,
    partition_of,
)
from headwater.messages import ANY, LOG_START, LogPosition, NewEvent, RecordedEvent
from headwater.outbox import SHARDS, Division, KafkaRelayBroker, PostgresRelayPositions, Relay, RelayBroker, RelayOptions
from headwater.outbox.shards import count_at
from headwater.postgres import Database
from headwater.testing.waiting import eventually

NO_DIVISIONS: Mapping[str, Sequence[Division]] = {}


def faults_of(
    events: Iterable[RecordedEvent],
    found: Mapping[Partition, Sequence[Envelope]],
    partition_counts: Mapping[str, int],
    divisions: Mapping[str, Sequence[Division]] = NO_DIVISIONS,
    after: Mapping[Partition, LogPosition] | None = None,
) -> list[str]:
    """Everything that is wrong with what is in Kafka: missing, twice, in the wrong place or order, or with a broken chain.

    `after` says what came before in each partition, where these are only the later ones.
    """
    wanted: dict[Partition, list[RecordedEvent]] = {}
    for event in events:
        topic = event_topic(event)
        count = count_at(LogPosition(1, event.global_position), divisions.get(topic, ()), partition_counts[topic])
        wanted.setdefault(Partition(topic, partition_of(event.stream_name.encode(), count)), []).append(event)
    faults: list[str] = []
    for partition in {*wanted, *found}:
        should = [event.global_position for event in wanted.get(partition, [])]
        have = [envelope.position.global_position for envelope in found.get(partition, [])]
        faults += [f"{partition}: {position} is missing" for position in sorted(set(should) - set(have))]
        faults += [f"{partition}: {position} does not belong here" for position in sorted(set(have) - set(should))]
        faults += [f"{partition}: {position} is there twice" for position, times in Counter(have).items() if times > 1]
        if have != sorted(have):
            faults.append(f"{partition}: out of order")
        previous = (after or {}).get(partition, LOG_START)
        for envelope in found.get(partition, []):
            if envelope.previous != previous:
                faults.append(f"{partition}: {envelope.position} says that {envelope.previous} came before, but it was {previous}")
            previous = envelope.position
        by_position = {event.global_position: event for event in wanted.get(partition, [])}
        faults += [
            f"{partition}: {e.position} has another content"
            for e in found.get(partition, [])
            if (event := by_position.get(e.position[1])) is None or _content(event) != _content(e.event)
        ]
    return faults


def _content(event: RecordedEvent) -> tuple[RecordedEvent, Any]:
    """Avro brings the same JSON, not the same text."""
    return replace(event, data=""), json.loads(event.data)


@asynccontextmanager
async def running(relay: Relay) -> AsyncIterator[Relay]:
    """Run it beside what is inside, and cancel it at the end."""
    task = asyncio.create_task(relay.run())
    try:
        yield relay
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def whole_log(store: EventStore, *, after: int = 0) -> list[RecordedEvent]:
    """Every event after this position."""
    events: list[RecordedEvent] = []
    while found := (await store.read_log(after=events[-1].global_position if events else after)).events:
        events += found
    return events


async def read_topics(bootstrap: str, topics: Mapping[str, int], values: ValueDecoder = JSON_DECODER) -> dict[Partition, list[Envelope]]:
    """What a consumer gets from these topics, each with its number of partitions, from the beginning to the end."""
    found: dict[Partition, list[Envelope]] = {}
    for partition, records in (await read_records(bootstrap, topics)).items():
        await values.prepare(r.value for r in records)
        found[partition] = [decode_record(r.key, r.value, list(r.headers), r.timestamp, values=values) for r in records]
    return found


async def read_records(
    bootstrap: str, topics: Mapping[str, int], first_offsets: Mapping[Partition, int] | None = None
) -> dict[Partition, list[Any]]:
    """The same as Kafka gives it; from these offsets on, where there are any."""
    partitions = [Partition(topic, number) for topic, count in topics.items() for number in range(count)]
    found: dict[Partition, list[Any]] = {partition: [] for partition in partitions}
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="earliest")
    await consumer.start()
    try:
        keys = [TopicPartition(*partition) for partition in partitions]
        consumer.assign(keys)
        ends = await consumer.end_offsets(keys)
        await consumer.seek_to_beginning(*keys)
        for partition, offset in (first_offsets or {}).items():
            consumer.seek(TopicPartition(*partition), offset)
        async with asyncio.timeout(60):
            while any([await consumer.position(key) < ends[key] for key in keys]):
                for key, records in (await consumer.getmany(timeout_ms=50)).items():
                    found[Partition(*key)] += records
    finally:
        await consumer.stop()
    return found


class RelayOnServers:
    """Makes relays over real servers, and looks at what they did."""

    def __init__(self, database: Database, store: PostgresEventStore, settings: KafkaSettings, category: str) -> None:
        self.database, self.store, self.settings, self.category = database, store, settings, category
        self.positions = PostgresRelayPositions(database)
        self._count = 0

    def relay(self, options: RelayOptions | None = None, broker: RelayBroker | None = None, values: ValueEncoder = JSON_ENCODER) -> Relay:
        return Relay(
            self.store,
            broker or KafkaRelayBroker(self.settings),
            self.positions,
            event_source="/services/test",
            values=values,
            options=options or RelayOptions(checkpoint_seconds=0.05, lease_seconds=2),
        )

    async def append(self, count: int, *, streams: int = 20, category: str | None = None, filler: int = 50) -> None:
        for first in range(0, count, 200):
            async with self.database.transaction() as connection:
                for _ in range(min(200, count - first)):
                    self._count += 1
                    event = NewEvent("OrderPlaced", f'{{"number": {self._count}, "filler": "{"x" * filler}"}}')
                    stream = f"{category or self.category}-{self._count % streams}"
                    await self.store.append(stream, [event], expected_version=ANY, connection=connection)

    async def relayed_through(self) -> int:
        return min([(await self.positions.load(shard)).relayed_through.global_position for shard in SHARDS])

    async def all_relayed(self, timeout: float = 30) -> None:
        async def is_done() -> bool:
            # The last event, not the horizon: aborted appends have drawn positions, too.
            async with self.database.connection() as connection:
                last: int | None = await connection.fetchval("SELECT max(global_position) FROM headwater.events")
            return await self.relayed_through() >= (last or 0)

        await eventually(is_done, timeout)

    async def faults(self, values: ValueDecoder = JSON_DECODER) -> list[str]:
        """What is wrong in the topics of this log; nothing, one hopes."""
        progress = await self.positions.load(SHARDS[0])
        found = await read_topics(self.settings.address, progress.topics, values)
        return faults_of(await whole_log(self.store), found, progress.topics, progress.divisions)
