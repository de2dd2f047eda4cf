"""What the relay needs of the world: a log to read, a broker to write to, a place to remember its progress."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

from headwater.coordination import Lease, Leases
from headwater.eventstore import Checkpoint, LogIdentity, LogSlice
from headwater.kafka import OffsetRange, Partition, Record, Scan
from headwater.messages import LogPosition


@dataclass(frozen=True, slots=True)
class PartitionPosition:
    """The last record of our log that a partition acknowledged, and where; offset -1 when it has none."""

    position: LogPosition
    offset: int


@dataclass(frozen=True, slots=True)
class Division:
    """How a topic was divided before it was given more partitions."""

    through: LogPosition
    """Up to here, counted from the division before."""
    partition_count: int
    tails: Mapping[int, LogPosition] = field(default_factory=dict[int, LogPosition])
    """The last position in each partition, by number, that had any."""


@dataclass(frozen=True, slots=True)
class RelayProgress:
    """What relays remember of a shard, and of all partitions."""

    relayed_through: Checkpoint = field(default_factory=Checkpoint)
    """Every event at or below is acknowledged in Kafka."""
    positions: Mapping[Partition, PartitionPosition] = field(default_factory=dict[Partition, PartitionPosition])
    topics: Mapping[str, int] = field(default_factory=dict[str, int])
    """The number of partitions of each topic."""
    divisions: Mapping[str, Sequence[Division]] = field(default_factory=dict[str, Sequence[Division]])
    """Of those that were given more, how their earlier events are divided; the earliest first."""
    predecessor: str | None = None
    """The shard of an earlier division whose relay must be fenced off this one's partitions, too."""


class RelaySource(Protocol):
    """The log; every `EventStore` is one."""

    async def read_log(self, *, after: int, limit: int = ..., horizon: int | None = ...) -> LogSlice:
        """The next events after a position, up to the horizon: today's, or one that was read before."""
        ...

    async def identity(self) -> LogIdentity:
        """Which log this is now."""
        ...

    async def verify_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Raise `LogDiverged` when the log lost what was read."""
        ...


class RelayPositions(Protocol):
    """Progress in the database of the log, and the leases that fence it."""

    @property
    def leases(self) -> Leases:
        """Where the leases are that `save` checks."""
        ...

    async def load(self, shard: str) -> RelayProgress:
        """What was saved last."""
        ...

    async def record_topics(self, partition_counts: Mapping[str, int]) -> None:
        """Remember topics at their first use."""
        ...

    async def divide_topic(self, leases: Sequence[Lease], topic: str, partition_count: int, before: Division) -> None:
        """Divide what comes next in a topic among more partitions.

        Args:
            leases: of all shards, so that nobody relays meanwhile.
            before: how it was divided up to the last position that is in it.
        Raises:
            RelayFenced: a lease is another's, or the topic was divided by somebody else; nothing was saved.
        """
        ...

    async def save(self, shard: str, lease: Lease, relayed_through: Checkpoint, moved: Mapping[Partition, PartitionPosition]) -> None:
        """Save the checkpoint and the partitions that moved, together; from then on no predecessor need be fenced.

        Raises:
            RelayFenced: another took the lease; nothing was saved.
        """
        ...


class RelayBatch(Protocol):
    """Records for one partition, written together or not at all."""

    @property
    def record_count(self) -> int:
        """How many there are."""
        ...

    def append(self, record: Record) -> bool:
        """Add one; False when the batch is full. The first one is always taken."""
        ...


class FencedWriter(Protocol):
    """Writes to partitions that no earlier relay of the shard can write to any more."""

    def new_batch(self) -> RelayBatch:
        """An empty batch."""
        ...

    async def send(self, partition: Partition, batch: RelayBatch) -> int:
        """Write it and return its first record's offset; one batch per partition at a time, and none after a failure.

        Raises:
            RelayFenced, RecordRefused, BrokerUnavailable
        """
        ...

    async def abandon(self) -> None:
        """Drop it with all that is not sent yet."""
        ...


class TailReader(Protocol):
    """Looks at what partitions hold."""

    async def bounds(self, partitions: Iterable[Partition]) -> Mapping[Partition, OffsetRange]:
        """The offsets each holds now."""
        ...

    async def scan(self, ranges: Mapping[Partition, OffsetRange], log_id: UUID) -> Mapping[Partition, Scan]:
        """What this log left in each between those offsets."""
        ...


class RelayBroker(Protocol):
    """Kafka, as the relay sees it."""

    async def ensure_topics(self, names: Iterable[str]) -> Mapping[str, int]:
        """Make what is missing; the number of partitions of each."""
        ...

    async def fence(self, transactional_id: str, partitions: Sequence[Partition]) -> FencedWriter:
        """Shut every earlier writer with this id out of these partitions.

        Raises:
            RelayFenced, BrokerUnavailable
        """
        ...

    def open_reader(self) -> AbstractAsyncContextManager[TailReader]:
        """A reader of partitions."""
        ...
