"""The topic on which writers show their schemas: retained for ever, like the records that need them.

Its name starts with an underscore, which no category does. A record's key is the schema's id, its value the schema's text.
"""

# aiokafka ships no types; its values get ours here.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.structs import TopicPartition

from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.kafka import KafkaSettings, KafkaTopics, translate_kafka_errors
from headwater.kafka.settings import REQUEST_SECONDS_MAX
from headwater.schemas.store import PublishedSchemas

SCHEMAS_TOPIC: Final = "_headwater_schemas"
_POLL_MILLISECONDS: Final = 50
_READ_SECONDS_MAX: Final = 3 * REQUEST_SECONDS_MAX


class KafkaSchemaBoard:
    """A `SchemaBoard` on a topic. Connects only while it publishes or reads: both are rare."""

    def __init__(self, kafka: KafkaSettings, *, topic: str = SCHEMAS_TOPIC, clock: Clock = SYSTEM_CLOCK) -> None:
        self._kafka, self._topic = kafka, topic
        self._topics = KafkaTopics(kafka, clock=clock)
        self._published = PublishedSchemas()
        self._read_to: dict[TopicPartition, int] = {}
        self._turn = asyncio.Lock()

    async def publish(self, schema_id: int, schema_text: str) -> None:
        """Return when every reader can find it; see `SchemaBoard.publish`."""
        if self._published.check_free(schema_id, schema_text):
            return
        await self.refresh()
        if self._published.check_free(schema_id, schema_text):
            return
        producer = AIOKafkaProducer(**self._kafka.client_options(), acks="all")
        with translate_kafka_errors(self._kafka, "publishing a schema"):
            async with asyncio.timeout(_READ_SECONDS_MAX):
                try:
                    await producer.start()
                    await producer.send_and_wait(self._topic, key=str(schema_id).encode(), value=schema_text.encode())
                finally:
                    await producer.stop()
        # Read back: another writer may have published the same id at the same moment.
        await self.refresh()
        self._published.check_free(schema_id, schema_text)

    async def refresh(self) -> None:
        """See everything that was published before this call; see `SchemaBoard.refresh`."""
        async with self._turn:
            await self._topics.ensure([self._topic])
            consumer = AIOKafkaConsumer(**self._kafka.client_options(), enable_auto_commit=False, auto_offset_reset="none")
            with translate_kafka_errors(self._kafka, "reading schemas"):
                async with asyncio.timeout(_READ_SECONDS_MAX):
                    try:
                        await consumer.start()
                        await self._read(consumer)
                    finally:
                        await consumer.stop()

    def find(self, schema_id: int) -> str | None:
        """The text of the schema with this id; see `SchemaBoard.find`."""
        return self._published.find(schema_id)

    async def _read(self, consumer: AIOKafkaConsumer) -> None:
        numbers: set[int] = consumer.partitions_for_topic(self._topic) or set()
        if not numbers:
            await consumer._client.set_topics([self._topic])  # pyright: ignore[reportPrivateUsage]  # noqa: SLF001 - nothing public asks for one topic's metadata
            numbers = consumer.partitions_for_topic(self._topic) or set()
        partitions = [TopicPartition(self._topic, number) for number in sorted(numbers)]
        first: dict[TopicPartition, int] = await consumer.beginning_offsets(partitions)
        end: dict[TopicPartition, int] = await consumer.end_offsets(partitions)
        pending = {key for key in partitions if max(first[key], self._read_to.get(key, 0)) < end[key]}
        consumer.assign(list(pending))
        for key in pending:
            consumer.seek(key, max(first[key], self._read_to.get(key, 0)))
        while pending:
            fetched: dict[TopicPartition, list[Any]] = await consumer.getmany(timeout_ms=_POLL_MILLISECONDS)
            for key, records in fetched.items():
                self._take(key, records)
            pending = {key for key in pending if self._read_to.get(key, 0) < end[key] and await consumer.position(key) < end[key]}

    def _take(self, key: TopicPartition, records: Sequence[Any]) -> None:
        for record in records:
            self._read_to[key] = int(record.offset) + 1
            if record.key is not None and record.value is not None and record.key.isdigit():
                self._published.add(int(record.key), record.value.decode())
