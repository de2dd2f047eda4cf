"""Records as a relay would write them, without one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self
from uuid import UUID, uuid4

from aiokafka import AIOKafkaProducer

from headwater.config import Settings
from headwater.kafka import JSON_ENCODER, Envelope, KafkaSettings, KafkaTopics, ValueEncoder, encode_envelope, event_topic, partition_of
from headwater.messages import LOG_START, Event, LogPosition, NewEvent, RecordedEvent

PARTITION_COUNT = 3


class Feeder:
    """Writes one log's events with the right chain of positions; positions are given here."""

    def __init__(self, bootstrap: str, topics: Iterable[str], *, partition_count: int = PARTITION_COUNT) -> None:
        self.bootstrap, self.topics, self.partition_count = bootstrap, list(topics), partition_count
        self.log_id: UUID = uuid4()
        self.position = 0
        self._previous: dict[tuple[str, int], LogPosition] = {}
        self._versions: dict[str, int] = {}
        self._producer: AIOKafkaProducer = None
        self.sent: list[RecordedEvent] = []

    async def __aenter__(self) -> Self:
        settings = Settings(topic_partitions=self.partition_count, topic_replication_factor=1)
        kafka = KafkaSettings.parse(self.bootstrap, topic_partitions=settings.topic_partitions, topic_replication_factor=1)
        await KafkaTopics(kafka).ensure(self.topics)
        self._producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap, enable_idempotence=True, linger_ms=2)
        await self._producer.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._producer.stop()

    async def feed(
        self,
        *facts: tuple[str, Event | NewEvent],
        skip: bool = False,
        values: ValueEncoder = JSON_ENCODER,
        damage: Callable[[bytes], bytes] = bytes,
    ) -> None:
        """Send events to streams, in order. `skip` leaves a hole: the events count, but are not sent. `damage` is done to their values."""
        waiting: list[Any] = []
        for stream_name, event in facts:
            envelope = self._envelope(stream_name, event if isinstance(event, NewEvent) else NewEvent.of(event))
            topic = event_topic(envelope.event)
            await values.prepare([envelope.event.type])
            key, value, headers, timestamp = encode_envelope(envelope, source="/test", encoded=values.encode(envelope.event))
            partition = partition_of(key, self.partition_count)
            self._previous[topic, partition] = envelope.position
            if not skip:
                self.sent.append(envelope.event)
                waiting.append(
                    await self._producer.send(topic, damage(value), key=key, partition=partition, timestamp_ms=timestamp, headers=headers)
                )
        for sent in waiting:
            await sent

    async def feed_raw(self, topic: str, partition: int, *, key: bytes | None, value: bytes | None) -> None:
        """Send what no relay would."""
        await self._producer.send_and_wait(topic, value, key=key, partition=partition)

    def _envelope(self, stream_name: str, event: NewEvent) -> Envelope:
        from datetime import UTC, datetime

        self.position += 1
        version = self._versions[stream_name] = self._versions.get(stream_name, 0) + 1
        recorded = RecordedEvent(
            global_position=self.position,
            stream_name=stream_name,
            version=version,
            type=event.type,
            data=event.data,
            metadata=event.metadata,
            event_id=event.event_id,
            recorded_at=datetime.now(UTC),
        )
        topic = event_topic(recorded)
        partition = partition_of(stream_name.encode(), self.partition_count)
        previous = self._previous.get((topic, partition), LOG_START)
        return Envelope(recorded, self.log_id, LogPosition(1, self.position), previous)
