"""What a consumer counts: partitions, records, and how far it got."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol
from uuid import UUID

from headwater.kafka import Partition
from headwater.messages import LogPosition

LANE_TRANSACTIONS_MAX: Final = 32
"""What a service's pool of connections is enlarged by, at most, when handlers run in lanes."""


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
    event_id: UUID | None = None
    """None where an earlier version of Headwater went past it."""


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
    retry_delay_seconds_max: float = 3_600.0
    """No message waits longer for its next attempt, whatever its policy says."""
    parked_keys_max: int = 1_000
    """Parked keys of one partition, over all handlers. When one more would have to be parked, `parking_full` is logged and the partition waits."""
    parked_messages_max: int = 10_000
    """Messages that are parked in one partition, over all its keys; the same happens."""
    parked_batch_size_max: int = 50
    """Messages of one parked key that follow in one transaction once its first one succeeded."""
    lane_transactions_max: int = LANE_TRANSACTIONS_MAX
    """Transactions that lanes have open at once, over all partitions; each takes a connection. A handler without a context needs one only to note
    that it is done."""
    lane_records_max: int = 2_000
    """Records of one partition that lanes may be at work on, or wait to be, before no more are received."""
    parked_poll_seconds: float = 1.0
    """How long a person's decision about a parked key may go unseen; nothing is asked while nothing is parked."""
