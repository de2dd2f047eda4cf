"""A broker and a memory for the relay that forget when the test ends; `MemoryEventStore` is its log."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import UUID

from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.coordination import Lease
from headwater.errors import BrokerUnavailable, RelayFenced
from headwater.eventstore import Checkpoint
from headwater.kafka import JSON_DECODER, Envelope, OffsetRange, Partition, Record, Scan, ValueDecoder, decode_record, provenance_of
from headwater.messages import LOG_START
from headwater.outbox import Division, PartitionPosition, RelayBatch, RelayProgress
from headwater.testing.memory_leases import MemoryLeases

BATCH_RECORDS_MAX = 10


@dataclass(slots=True)
class MemoryPartition:
    """A partition's records; None where a fence's marker stands."""

    records: list[Record | None] = field(default_factory=list[Record | None])
    first_offset: int = 0
    epochs: dict[str, int] = field(default_factory=dict[str, int])
    """Of each transactional id that fenced it; writers under the same id with a lower epoch are refused."""

    @property
    def end(self) -> int:
        return self.first_offset + len(self.records)


class MemoryBatch:
    """Records for one partition."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    @property
    def record_count(self) -> int:
        return len(self.records)

    def append(self, record: Record) -> bool:
        """Add one; False when there are ten."""
        if len(self.records) >= BATCH_RECORDS_MAX:
            return False
        self.records.append(record)
        return True


SendHook = Callable[[Partition, Sequence[Record]], Awaitable[None]]


class MemoryRelayBroker:
    """A `RelayBroker` in memory, with the fence of the real one and two places to break it.

    `before_write` and `after_write` are awaited around every write: they may raise what Kafka would, or wait, so that a test can freeze a
    relay with its batch on the way. With `fences=False` old writers are let in: what the fence is good for shows in what then goes wrong.
    """

    def __init__(self, *, partition_count: int = 3, fences: bool = True, clock: Clock = SYSTEM_CLOCK) -> None:
        self.partition_count, self._fences, self._clock = partition_count, fences, clock
        self.topics: dict[str, list[MemoryPartition]] = {}
        self.is_up = True
        self.before_write: SendHook | None = None
        self.after_write: SendHook | None = None
        self._epochs: defaultdict[str, int] = defaultdict(int)

    def partition(self, partition: Partition) -> MemoryPartition:
        """One partition, to look into or to damage."""
        return self.topics[partition.topic][partition.number]

    def envelopes(self, topic: str, values: ValueDecoder = JSON_DECODER) -> dict[Partition, list[Envelope]]:
        """What a consumer would get, per partition, in order; `values` was prepared for them."""
        return {
            Partition(topic, number): [decode_record(*record, values=values) for record in held.records if record is not None]
            for number, held in enumerate(self.topics.get(topic, []))
        }

    async def ensure_topics(self, names: Iterable[str]) -> Mapping[str, int]:
        """Make what is missing; the number of partitions of each."""
        await self._reach()
        for name in names:
            self.topics.setdefault(name, [MemoryPartition() for _ in range(self.partition_count)])
        return {name: len(self.topics[name]) for name in names}

    async def count_partitions(self, topic: str) -> int | None:
        """How many the topic has."""
        await self._reach()
        return len(self.topics[topic]) if topic in self.topics else None

    async def add_partitions(self, topic: str, count: int) -> None:
        """Give it as many in all."""
        await self._reach()
        held = self.topics[topic]
        held += [MemoryPartition() for _ in range(count - len(held))]

    async def fence(self, transactional_id: str, partitions: Sequence[Partition]) -> MemoryWriter:
        """Shut every earlier writer with this id out of these partitions."""
        await self._reach()
        self._epochs[transactional_id] += 1
        epoch = self._epochs[transactional_id]
        for partition in partitions:
            held = self.partition(partition)
            held.records.append(None)
            if self._fences:
                held.epochs[transactional_id] = epoch
        return MemoryWriter(self, transactional_id, epoch)

    @asynccontextmanager
    async def open_reader(self) -> AsyncGenerator[MemoryReader]:
        """A reader of partitions."""
        await self._reach()
        yield MemoryReader(self)

    async def _reach(self) -> None:
        await self._clock.sleep(0)
        if not self.is_up:
            raise BrokerUnavailable("the broker in memory is down")

    async def write(self, partition: Partition, records: Sequence[Record], transactional_id: str, epoch: int) -> int:
        """Take a writer's batch."""
        await self._reach()
        if self.before_write is not None:
            await self.before_write(partition, records)
        held = self.partition(partition)
        if epoch < held.epochs.get(transactional_id, 0):
            raise RelayFenced("another relay has fenced this one")
        first_offset = held.end
        held.records += records
        if self.after_write is not None:
            await self.after_write(partition, records)
        return first_offset


class MemoryWriter:
    """A `FencedWriter` of one epoch, strict about the relay's side of the bargain."""

    def __init__(self, broker: MemoryRelayBroker, transactional_id: str, epoch: int) -> None:
        self._broker, self._transactional_id, self._epoch = broker, transactional_id, epoch
        self._on_the_way: set[Partition] = set()
        self._is_over = False

    def new_batch(self) -> MemoryBatch:
        """An empty batch."""
        return MemoryBatch()

    async def send(self, partition: Partition, batch: RelayBatch) -> int:
        """Write it and return its first record's offset."""
        assert isinstance(batch, MemoryBatch), "a batch of this writer"
        if self._is_over:
            raise BrokerUnavailable("this writer has failed before and must be dropped")
        assert partition not in self._on_the_way, "one unacknowledged batch per partition"
        self._on_the_way.add(partition)
        try:
            offset = await self._broker.write(partition, batch.records, self._transactional_id, self._epoch)
        except BaseException:
            self._is_over = True
            raise
        self._on_the_way.discard(partition)
        return offset

    async def abandon(self) -> None:
        """Send nothing more."""
        self._is_over = True


class MemoryReader:
    """A `TailReader` of the broker in memory."""

    def __init__(self, broker: MemoryRelayBroker) -> None:
        self._broker = broker

    async def bounds(self, partitions: Iterable[Partition]) -> Mapping[Partition, OffsetRange]:
        """The offsets each holds now."""
        held = {partition: self._broker.partition(partition) for partition in partitions}
        return {partition: OffsetRange(found.first_offset, found.end) for partition, found in held.items()}

    async def scan(self, ranges: Mapping[Partition, OffsetRange], log_id: UUID) -> Mapping[Partition, Scan]:
        """What this log left in each between those offsets."""
        return {partition: self._scan_one(partition, offsets, log_id) for partition, offsets in ranges.items()}

    def _scan_one(self, partition: Partition, offsets: OffsetRange, log_id: UUID) -> Scan:
        held = self._broker.partition(partition)
        scan = Scan()
        for offset in range(offsets.first, offsets.end):
            record = held.records[offset - held.first_offset]
            found = provenance_of(record[2]) if record is not None else None
            if found is None or found.log_id != log_id:
                continue
            at_start = found if offset == offsets.first else scan.at_start
            is_later = scan.last is None or found.position > scan.last.position
            scan = Scan(at_start, found if is_later else scan.last, offset if is_later else scan.last_offset)
        return scan


class MemoryRelayPositions:
    """`RelayPositions` in memory; leases run by the given clock."""

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self.leases = MemoryLeases(clock=clock)
        self.relayed_through: dict[str, Checkpoint] = {}
        self.predecessors: dict[str, str] = {}
        """Of shards whose predecessor was not fenced yet."""
        self.positions: dict[Partition, PartitionPosition] = {}
        self.topics: dict[str, int] = {}
        self.divisions: dict[str, list[Division]] = {}

    async def load(self, shard: str) -> RelayProgress:
        """What was saved last."""
        await self._clock.sleep(0)
        through = self.relayed_through.get(shard, Checkpoint())
        divisions = {topic: tuple(found) for topic, found in self.divisions.items()}
        return RelayProgress(through, dict(self.positions), dict(self.topics), divisions, self.predecessors.get(shard))

    async def record_topics(self, partition_counts: Mapping[str, int]) -> None:
        """Remember topics at their first use."""
        await self._clock.sleep(0)
        self.topics = {**partition_counts, **self.topics}

    async def divide_topic(self, leases: Sequence[Lease], topic: str, partition_count: int, before: Division) -> None:
        """Divide what comes next in a topic among more partitions."""
        await self._clock.sleep(0)
        if not all(self.leases.is_current(lease) for lease in leases) or self.topics.get(topic) != before.partition_count:
            raise RelayFenced("somebody took a shard, or divided the topic, meanwhile; nothing was recorded")
        self.topics[topic] = partition_count
        found = self.divisions.setdefault(topic, [])
        if before.through > LOG_START and all(each.through != before.through for each in found):
            found.append(before)

    async def save(self, shard: str, lease: Lease, relayed_through: Checkpoint, moved: Mapping[Partition, PartitionPosition]) -> None:
        """Save the checkpoint and the partitions that moved, together."""
        await self._clock.sleep(0)
        if not self.leases.is_current(lease):
            raise RelayFenced("another relay took the lease")
        self.relayed_through[shard] = relayed_through
        self.predecessors.pop(shard, None)
        self.positions.update(moved)
