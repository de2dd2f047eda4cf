"""The bytes that Headwater puts into Kafka, and raw aiokafka putting the same bytes there."""

# aiokafka ships no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from aiokafka import AIOKafkaProducer

from benchmarks.log_read import PAGE_SIZE
from headwater.eventstore import EventStore
from headwater.kafka import JSON_ENCODER, KafkaSettings, KafkaTopics, Record, RecordEncoder, ValueEncoder, partition_of, position_text
from headwater.messages import LOG_START, Event, EventRegistry, LogPosition
from headwater.postgres import Database
from headwater.schemas import AvroEncoder, KafkaSchemaBoard, PostgresSchemas

PARTITION_COUNT: Final = 6
BATCH_BYTES_MAX: Final = 512 * 1024
"""The size at which the relay closes a batch, too."""
EVENT_SOURCE: Final = "/benchmarks"

RecordsByPartition = Mapping[int, Sequence[Record]]


def kafka_settings(bootstrap: str) -> KafkaSettings:
    """Kafka at this address, with the number of partitions that all benchmarks use."""
    return KafkaSettings.parse(bootstrap, topic_partitions=PARTITION_COUNT)


async def make_topic(bootstrap: str, name: str) -> None:
    """A topic as Headwater makes it."""
    await KafkaTopics(kafka_settings(bootstrap)).ensure([name])


async def records_of_log(
    store: EventStore, values: ValueEncoder = JSON_ENCODER, *, partition_count: int = PARTITION_COUNT
) -> RecordsByPartition:
    """Everything in the log, encoded as the relay does, by partition and in order."""
    identity, after = await store.identity(), 0
    encoder = RecordEncoder(identity.log_id, source=EVENT_SOURCE)
    records: defaultdict[int, list[Record]] = defaultdict(list)
    previous: defaultdict[int, LogPosition] = defaultdict(lambda: LOG_START)
    while events := (await store.read_log(after=after, limit=PAGE_SIZE)).events:
        await values.prepare({event.type for event in events})
        for event in events:
            number, position = partition_of(event.stream_name.encode(), partition_count), identity.locate(event.global_position)
            record = encoder.encode(event, values.encode(event), position_text(position), position_text(previous[number]))
            records[number].append(record)
            previous[number] = position
        after = events[-1].global_position
    return records


def avro_encoder(database: Database, bootstrap: str, event_class: type[Event]) -> AvroEncoder:
    """What a service writes Avro with: schemas registered in its database, and shown to readers on a topic."""
    return AvroEncoder(EventRegistry([event_class]), PostgresSchemas(database), KafkaSchemaBoard(kafka_settings(bootstrap)))


@asynccontextmanager
async def raw_producer(bootstrap: str) -> AsyncGenerator[AIOKafkaProducer]:
    """The idempotent producer of aiokafka, which waits for all in-sync replicas and sends full batches at once."""
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, enable_idempotence=True, acks="all", linger_ms=0, max_batch_size=BATCH_BYTES_MAX
    )
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def produce_raw(producer: AIOKafkaProducer, topic: str, records: RecordsByPartition) -> int:
    """Put the records into batches of our own making, send them, and return how many there were once all are acknowledged."""
    acknowledgements: list[Any] = []
    for number, ours in records.items():
        batch = producer.create_batch()
        for key, value, headers, timestamp_ms in ours:
            if batch.append(key=key, value=value, timestamp=timestamp_ms, headers=headers) is None:
                acknowledgements.append(await producer.send_batch(batch, topic, partition=number))
                batch = producer.create_batch()
                batch.append(key=key, value=value, timestamp=timestamp_ms, headers=headers)
        acknowledgements.append(await producer.send_batch(batch, topic, partition=number))
    await asyncio.gather(*acknowledgements)
    return sum(map(len, records.values()))
