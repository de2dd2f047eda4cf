"""What a consumer counts: partitions, records, and how far it got."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol
from uuid import UUID

from headwater.kafka import Partition
from headwater.messages import LogPosition


class SourceRecord(Protocol):
    """One record as its source gives it, still encoded. aiokafka's own records have this shape, so none is copied."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


@dataclass(frozen=True, slots=True)
class LastRecord:
    """The last event that a partition's reader went past, to be recognised when it comes back."""

    offset: int
    log_id: UUID
    position: LogPosition


@dataclass(frozen=True, slots=True)
class PartitionPosition:
    """A group's row for one partition."""

    partition: Partition
    epoch: int
    """Raised by every claim; a commit requires it."""
    next_offset: int
    marks: Mapping[UUID, LogPosition]
    """For each log, the position of the last event that was applied or passed over."""
    last: LastRecord | None
    """None before the first event."""


class Move(NamedTuple):
    """A step of a partition's row, from what its owner believes to be there."""

    before: PartitionPosition
    after: PartitionPosition


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """How far the group's effects are behind a partition's end."""

    partition: Partition
    record_count: int
    """Records that are there and not committed yet."""
    seconds: float
    """Age of the oldest of them as far as it was received; 0 where none waits."""


@dataclass(frozen=True, slots=True)
class ConsumerLimits:
    """The most a consumer does at once, and how long it waits; every one is in seconds or in records."""

    batch_size_max: int = 500
    """Records in one transaction."""
    batch_seconds_max: float = 2.0
    """A batch whose handlers took longer commits what it has; locks are held no longer than this and one handler."""
    handler_seconds_max: float = 30.0
    """A handler that takes longer has failed. Below Postgres's idle_in_transaction_session_timeout of 60 s."""
    idle_seconds: float = 0.25
    """How long to wait for records before looking whether the partitions changed."""
    revoke_seconds_max: float = 20.0
    """How long a rebalance waits for the batch at hand; the epoch fences what takes longer."""
    shutdown_seconds_max: float = 30.0
    """How long stopping waits for the batch at hand; what takes longer is rolled back."""
    reclaim_seconds: float = 15.0
    """How long to leave alone a partition that another member claimed, unless the broker assigns it anew."""
    probe_seconds: float = 30.0
    """After silence for so long, ask the broker whether it is there."""
    reconnect_seconds_max: float = 15.0
    """The longest delay between attempts to reach Kafka or PostgreSQL."""
