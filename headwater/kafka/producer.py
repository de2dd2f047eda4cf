"""A producer that fences its predecessor, never retries by itself, and can be dropped at any moment.

It stands below aiokafka's own sender: batches are built by aiokafka's record builder with our producer id, epoch and sequence, and sent as
plain produce requests with `acks=all`. So there is no start-up that draws another producer id, no retry that outlives its caller, no flush;
the first failure is final, and nothing is sent after it (rule 14).
"""

# aiokafka ships no types; its values get ours here.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Any, Final, Self

from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.errors import BrokerUnavailable
from headwater.kafka.client import drop_client, leader_of, open_client
from headwater.kafka.envelope import Record
from headwater.kafka.errors import error_of_code, translate_kafka_errors
from headwater.kafka.fence import ProducerIdentity, raise_fence
from headwater.kafka.partitions import Partition
from headwater.kafka.settings import REQUEST_SECONDS_MAX, KafkaSettings

BATCH_BYTES_MAX: Final = 512 * 1024
"""A batch takes no further record above this; a single larger record still makes a batch of its own."""
REQUEST_BYTES_MAX: Final = 8 * 1024 * 1024
"""Batches of several partitions share a request up to this; the broker's own limit is 100 MiB."""
DELIVERY_SECONDS_MAX: Final = 2 * REQUEST_SECONDS_MAX
"""A batch is acknowledged or failed within this: it may wait for one request before its own."""
_RECORD_FORMAT: Final = 2
_NO_COMPRESSION: Final = 0
_ACKS_ALL: Final = -1
_SEQUENCE_MASK: Final = 0x7FFFFFFF
_DOING: Final = "sending a batch"


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


class _Parcel:
    """A batch on its way."""

    __slots__ = ("content", "delivered", "partition")

    def __init__(self, partition: Partition, content: bytes) -> None:
        self.partition, self.content = partition, content
        self.delivered: asyncio.Future[int] = asyncio.get_running_loop().create_future()


class FencedProducer:
    """Writes batches under an identity that no earlier relay of the shard can write beside."""

    def __init__(self, client: AIOKafkaClient, settings: KafkaSettings, identity: ProducerIdentity) -> None:
        self._client, self._settings, self.identity = client, settings, identity
        self._next_sequence: defaultdict[Partition, int] = defaultdict(int)
        self._unacknowledged: set[Partition] = set()
        self._waiting: defaultdict[int, deque[_Parcel]] = defaultdict(deque)
        self._couriers: dict[int, asyncio.Task[None]] = {}
        self._has_failed = False

    @classmethod
    async def open(
        cls, settings: KafkaSettings, *, transactional_id: str, partitions: Sequence[Partition], clock: Clock = SYSTEM_CLOCK
    ) -> Self:
        """Connect, fence whoever held this transactional id off these partitions, and be ready to write to them.

        Raises:
            RelayFenced: another relay was faster.
            BrokerUnavailable: Kafka cannot be reached or did not answer in time.
        """
        client = await open_client(settings, sorted({partition.topic for partition in partitions}))
        try:
            identity = await raise_fence(client, settings, transactional_id, partitions, clock)
        except BaseException:
            await drop_client(client)
            raise
        return cls(client, settings, identity)

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
        self._unacknowledged.add(partition)
        try:
            parcel = self._hand_in(partition, batch)
            with translate_kafka_errors(self._settings, _DOING):
                async with asyncio.timeout(DELIVERY_SECONDS_MAX):
                    offset = await parcel.delivered
        except BaseException:
            self._has_failed = True
            raise
        self._unacknowledged.discard(partition)
        return offset

    async def abandon(self) -> None:
        """Drop the connections with all that was not sent yet. Safe twice."""
        self._has_failed = True
        couriers = list(self._couriers.values())
        for courier in couriers:
            courier.cancel()
        await drop_client(self._client)
        await asyncio.gather(*couriers, return_exceptions=True)
        for parcel in [parcel for parcels in self._waiting.values() for parcel in parcels]:
            parcel.delivered.cancel()
        self._waiting.clear()

    def _hand_in(self, partition: Partition, batch: RecordBatch) -> _Parcel:
        leader = leader_of(self._client, partition)
        first_sequence = self._next_sequence[partition]
        self._next_sequence[partition] = (first_sequence + batch.record_count) & _SEQUENCE_MASK
        parcel = _Parcel(partition, batch.build(first_sequence))
        self._waiting[leader].append(parcel)
        courier = self._couriers.get(leader)
        if courier is None or courier.done():
            # It starts after the caller's turn, so that batches handed in together travel together.
            self._couriers[leader] = asyncio.create_task(self._carry(leader), name=f"headwater-courier-{leader}")
        return parcel

    async def _carry(self, leader: int) -> None:
        """One request after the other to one broker, each with all that waits by then."""
        waiting = self._waiting[leader]
        while waiting and not self._has_failed:
            parcels = _take(waiting)
            try:
                answer = await self._client.send(leader, _produce_request(parcels))
            except BaseException as error:
                self._has_failed = True
                for parcel in parcels:
                    _fail(parcel, BrokerUnavailable("the producer was dropped") if isinstance(error, asyncio.CancelledError) else error)
                if not isinstance(error, Exception):
                    raise
            else:
                self._deliver(parcels, answer)
        for parcel in waiting:
            _fail(parcel, BrokerUnavailable("a batch before this one failed; the producer must be dropped"))
        waiting.clear()

    def _deliver(self, parcels: Sequence[_Parcel], answer: Any) -> None:
        outcomes = {
            Partition(str(topic), int(outcome[0])): (int(outcome[1]), int(outcome[2]))
            for topic, outcomes in answer.topics
            for outcome in outcomes
        }
        for parcel in parcels:
            code, offset = outcomes.get(parcel.partition, (-1, -1))
            if code == 0 and offset >= 0:
                if not parcel.delivered.done():
                    parcel.delivered.set_result(offset)
            else:
                self._has_failed = True
                _fail(parcel, error_of_code(code, f"{_DOING} to {parcel.partition}"))


def _take(waiting: deque[_Parcel]) -> list[_Parcel]:
    taken = [waiting.popleft()]
    size = len(taken[0].content)
    while waiting and size + len(waiting[0].content) <= REQUEST_BYTES_MAX:
        size += len(waiting[0].content)
        taken.append(waiting.popleft())
    return taken


def _fail(parcel: _Parcel, error: BaseException) -> None:
    if not parcel.delivered.done():
        parcel.delivered.set_exception(error)
        parcel.delivered.exception()  # Whoever sent it may be gone already.


def _produce_request(parcels: Sequence[_Parcel]) -> ProduceRequest:
    topics: defaultdict[str, list[tuple[int, bytes]]] = defaultdict(list)
    for parcel in parcels:
        topics[parcel.partition.topic].append((parcel.partition.number, parcel.content))
    return ProduceRequest(
        transactional_id=None, required_acks=_ACKS_ALL, timeout=int(REQUEST_SECONDS_MAX * 1000), topics=list(topics.items())
    )
