"""A producer that fences its predecessor, never retries by itself, and can be dropped at any moment.

It stands below aiokafka's own sender: batches are built by aiokafka's record builder with our producer id, epoch and sequence, and sent as
plain produce requests with `acks=all`. So there is no start-up that draws another producer id, no retry that outlives its caller, no flush;
the first failure is final, and nothing is sent after it (rule 14).
"""

# aiokafka ships no types; its values get ours here.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final, Self

from aiokafka.record.default_records import DefaultRecordBatchBuilder

from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.errors import BrokerUnavailable
from headwater.kafka.couriers import SENDING, Couriers, Parcel, SharedCouriers
from headwater.kafka.envelope import Record
from headwater.kafka.errors import translate_kafka_errors
from headwater.kafka.fence import ProducerIdentity, raise_fence
from headwater.kafka.partitions import Partition
from headwater.kafka.settings import REQUEST_SECONDS_MAX, KafkaSettings

BATCH_BYTES_MAX: Final = 512 * 1024
"""A batch takes no further record above this; a single larger record still makes a batch of its own."""
DELIVERY_SECONDS_MAX: Final = 2 * REQUEST_SECONDS_MAX
"""A batch is acknowledged or failed within this: it may wait for one request before its own."""
_RECORD_FORMAT: Final = 2
_NO_COMPRESSION: Final = 0
_SEQUENCE_MASK: Final = 0x7FFFFFFF


class RecordBatch:
    """Records for one partition, written together or not at all."""

    def __init__(self, identity: ProducerIdentity) -> None:
        self._identity = identity
        self.record_count = 0
        self._builder: Any = DefaultRecordBatchBuilder(
            _RECORD_FORMAT, _NO_COMPRESSION, False, identity.producer_id, identity.epoch, 0, BATCH_BYTES_MAX
        )

    def append(self, record: Record) -> bool:
        """Add a record; False when the batch is full. The first one is always taken."""
        key, value, headers, timestamp_ms = record
        if self._builder.append(self.record_count, timestamp_ms, key, value, headers) is None:
            return False
        self.record_count += 1
        return True

    def build(self, first_sequence: int) -> bytes:
        """The bytes to send; once."""
        self._builder.set_producer_state(self._identity.producer_id, self._identity.epoch, first_sequence)
        return bytes(self._builder.build())


class FencedProducer:
    """Writes batches under an identity that no earlier relay of the shard can write beside."""

    def __init__(self, shared: SharedCouriers, couriers: Couriers, settings: KafkaSettings, identity: ProducerIdentity) -> None:
        self._shared, self._couriers, self._settings, self.identity = shared, couriers, settings, identity
        self._next_sequence: defaultdict[Partition, int] = defaultdict(int)
        self._unacknowledged: dict[Partition, Parcel] = {}
        self._has_failed = self._is_abandoned = False

    @classmethod
    async def open(
        cls,
        settings: KafkaSettings,
        *,
        transactional_id: str,
        partitions: Sequence[Partition],
        clock: Clock = SYSTEM_CLOCK,
        shared: SharedCouriers | None = None,
    ) -> Self:
        """Fence whoever held this transactional id off these partitions, and be ready to write to them.

        Args:
            shared: the client of all producers of this process; without it, the producer has one of its own.
        Raises:
            RelayFenced: another relay was faster.
            BrokerUnavailable: Kafka cannot be reached or did not answer in time.
        """
        shared = shared or SharedCouriers(settings)
        couriers = await shared.borrow()
        try:
            await couriers.learn_leaders({partition.topic for partition in partitions})
            identity = await raise_fence(couriers.client, settings, transactional_id, partitions, clock)
        except BaseException:
            await shared.give_back(couriers)
            raise
        return cls(shared, couriers, settings, identity)

    def new_batch(self) -> RecordBatch:
        """An empty batch."""
        return RecordBatch(self.identity)

    async def send(self, partition: Partition, batch: RecordBatch) -> int:
        """Write the batch and return the offset of its first record, once all in-sync replicas have it.

        One batch per partition at a time. After any failure, also a cancelled wait, the producer sends nothing more: drop it.

        Raises:
            RelayFenced: another relay has taken over; nothing was written.
            RecordRefused: Kafka does not take this batch; nothing was written.
            BrokerUnavailable: the outcome is unknown; the next holder of the fence reads it from the partition's tail.
        """
        if self._has_failed:
            raise BrokerUnavailable("this producer has failed before and must be dropped")
        assert partition not in self._unacknowledged, "one unacknowledged batch per partition"
        assert batch.record_count, "a batch has records"
        try:
            parcel = self._hand_in(partition, batch)
            with translate_kafka_errors(self._settings, SENDING):
                async with asyncio.timeout(DELIVERY_SECONDS_MAX):
                    offset = await parcel.delivered
        except BaseException:
            self._stop()
            raise
        del self._unacknowledged[partition]
        return offset

    async def abandon(self) -> None:
        """Send nothing more, not even what waits to be sent. Safe twice."""
        self._stop()
        if not self._is_abandoned:
            self._is_abandoned = True
            await self._shared.give_back(self._couriers)

    def _hand_in(self, partition: Partition, batch: RecordBatch) -> Parcel:
        first_sequence = self._next_sequence[partition]
        self._next_sequence[partition] = (first_sequence + batch.record_count) & _SEQUENCE_MASK
        parcel = self._unacknowledged[partition] = self._couriers.hand_in(partition, batch.build(first_sequence))
        return parcel

    def _stop(self) -> None:
        self._has_failed = True
        self._couriers.take_back(self._unacknowledged.values())
