"""The relay's broker is Kafka."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager

from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.kafka import FencedProducer, KafkaSettings, KafkaTopics, Partition, PartitionReader, RecordBatch, SharedCouriers, open_reader
from headwater.outbox.ports import RelayBatch


class KafkaRelayBroker:
    """`RelayBroker` over a Kafka cluster."""

    def __init__(self, settings: KafkaSettings, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._settings, self._clock = settings, clock
        self._topics, self._couriers = KafkaTopics(settings, clock=clock), SharedCouriers(settings)

    async def ensure_topics(self, names: Iterable[str]) -> Mapping[str, int]:
        """Make what is missing; the number of partitions of each."""
        return await self._topics.ensure(names)

    async def count_partitions(self, topic: str) -> int | None:
        """How many the topic has; None where there is none."""
        return (await self._topics.describe([topic])).get(topic)

    async def add_partitions(self, topic: str, count: int) -> None:
        """Give it as many in all; returns once every one has a leader."""
        await self._topics.add_partitions(topic, count)

    async def fence(self, transactional_id: str, partitions: Sequence[Partition]) -> KafkaWriter:
        """Shut every earlier writer with this id out of these partitions."""
        return KafkaWriter(
            await FencedProducer.open(
                self._settings, transactional_id=transactional_id, partitions=partitions, clock=self._clock, shared=self._couriers
            )
        )

    def open_reader(self) -> AbstractAsyncContextManager[PartitionReader]:
        """A reader of partitions."""
        return open_reader(self._settings)


class KafkaWriter:
    """`FencedWriter` over a fenced producer."""

    def __init__(self, producer: FencedProducer) -> None:
        self._producer = producer

    def new_batch(self) -> RecordBatch:
        """An empty batch."""
        return self._producer.new_batch()

    async def send(self, partition: Partition, batch: RelayBatch) -> int:
        """Write it and return its first record's offset."""
        assert isinstance(batch, RecordBatch), "a batch of this writer"
        return await self._producer.send(partition, batch)

    async def abandon(self) -> None:
        """Send nothing more, not even what waits to be sent."""
        await self._producer.abandon()
