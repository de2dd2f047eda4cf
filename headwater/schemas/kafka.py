"""The topic on which writers show their schemas: retained for ever, like the records that need them.

Its name starts with an underscore, which no category does. A record's key is the schema's id, its value the schema's text.
"""

# aiokafka ships no types; its values get ours here.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.structs import TopicPartition

from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.errors import BrokerUnavailable, SchemaError
from headwater.kafka import REQUEST_SECONDS_MAX, KafkaSettings, KafkaTopics, translate_kafka_errors
from headwater.schemas.store import PublishedSchemas
from headwater.telemetry import logger

SCHEMAS_TOPIC: Final = "_headwater_schemas"
_POLL_MILLISECONDS: Final = 50
_ID_DIGITS_MAX: Final = 10
_WORK_SECONDS_MAX: Final = 3 * REQUEST_SECONDS_MAX

_log = logger("schemas")


class KafkaSchemaBoard:
    """A `SchemaBoard` on a topic. Connects only while it publishes or reads: both are rare."""

    def __init__(self, kafka: KafkaSettings, *, topic: str = SCHEMAS_TOPIC, clock: Clock = SYSTEM_CLOCK) -> None:
        self._kafka, self._topic = kafka, topic
        self._topics = KafkaTopics(kafka, clock=clock)
        self._published = PublishedSchemas()
        self._is_ready = False
        self._turn = asyncio.Lock()

    async def publish(self, schema_texts: Mapping[int, str]) -> Mapping[int, SchemaError]:
        """Return when every reader can find them; see `SchemaBoard.publish`."""
        if self._published.missing(schema_texts):
            await self.refresh()
        if missing := self._published.missing(schema_texts):
            async with self._turn, self._topic_ready("publishing schemas"):
                await self._write(missing)
            # Read back: another writer may have published the same id at the same moment.
            await self.refresh()
        return self._published.clashes(schema_texts)

    async def refresh(self) -> None:
        """See everything that was published before this call; see `SchemaBoard.refresh`."""
        async with self._turn, self._topic_ready("reading schemas"):
            consumer = AIOKafkaConsumer(**self._kafka.client_options(), enable_auto_commit=False, auto_offset_reset="none")
            try:
                await consumer.start()
                await self._read(consumer)
            finally:
                await consumer.stop()

    @asynccontextmanager
    async def _topic_ready(self, doing: str) -> AsyncGenerator[None]:
        """Looked at before the first use, and again after a failure, for somebody may have deleted it."""
        if not self._is_ready:
            await self._topics.ensure([self._topic])
        self._is_ready = False
        with translate_kafka_errors(self._kafka, doing):
            async with asyncio.timeout(_WORK_SECONDS_MAX):
                yield
        self._is_ready = True

    async def _write(self, schema_texts: Mapping[int, str]) -> None:
        producer = AIOKafkaProducer(**self._kafka.client_options(), acks="all")
        try:
            await producer.start()
            sent = [
                await producer.send(self._topic, key=str(schema_id).encode(), value=text.encode())
                for schema_id, text in schema_texts.items()
            ]
            await asyncio.gather(*sent)
        finally:
            await producer.stop()

    def find(self, schema_id: int) -> str | None:
        """The text of the schema with this id; see `SchemaBoard.find`."""
        return self._published.find(schema_id)

    async def _read(self, consumer: AIOKafkaConsumer) -> None:
        """The whole topic, every time: it is small, and it may have been restored since."""
        numbers: set[int] = consumer.partitions_for_topic(self._topic) or set()
        if not numbers:
            await consumer._client.set_topics([self._topic])  # pyright: ignore[reportPrivateUsage]  # noqa: SLF001 - nothing public asks for one topic's metadata
            numbers = consumer.partitions_for_topic(self._topic) or set()
        if not numbers:
            raise BrokerUnavailable(f"Kafka at {self._kafka.address} has no topic {self._topic!r} any more; it is made again")
        partitions = [TopicPartition(self._topic, number) for number in sorted(numbers)]
        first: dict[TopicPartition, int] = await consumer.beginning_offsets(partitions)
        end: dict[TopicPartition, int] = await consumer.end_offsets(partitions)
        pending = {key for key in partitions if first[key] < end[key]}
        consumer.assign(list(pending))
        for key in pending:
            consumer.seek(key, first[key])
        while pending:
            fetched: dict[TopicPartition, list[Any]] = await consumer.getmany(timeout_ms=_POLL_MILLISECONDS)
            for records in fetched.values():
                self._take(records)
            pending = {key for key in pending if await consumer.position(key) < end[key]}

    def _take(self, records: Sequence[Any]) -> None:
        for record in records:
            key, value = record.key or b"", record.value or b""
            try:
                if not key.isdigit() or len(key) > _ID_DIGITS_MAX:
                    raise ValueError("its key is no schema's id")
                self._published.add(int(key), value.decode())
            except ValueError as error:
                # Anyone may write to the topic; what is no schema harms nobody.
                _log.warning("schema_record_ignored", topic=self._topic, offset=record.offset, reason=str(error))
