"""What a consumer asks of its source and of the store of its effects."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol
from uuid import UUID

from headwater.bus.dead_letters import DeadLetter
from headwater.bus.divisions import TopicDivision
from headwater.bus.lane_marks import Lane
from headwater.bus.parked import Follower, ParkedKey, ParkedRecord, ParkedRequest
from headwater.bus.reading import RecordReader
from headwater.bus.values import Move, PartitionPosition, SourceRecord
from headwater.errors import DeliveryError, HandlerFailed
from headwater.kafka import OffsetRange, Partition, ValueDecoder
from headwater.messages import AppendResult, Event, ExpectedVersion, LogPosition, NewEvent, RecordedEvent
from headwater.postgres import CallerConnection, Connection


class OffsetOutOfRange(DeliveryError):
    """The source no longer holds the offset that comes next (the topic was recreated or cut off); an operator restores or rebuilds."""

    def __init__(self, partition: Partition, offset: int, message: str | None = None) -> None:
        super().__init__(message or f"{partition} does not hold offset {offset}: the topic was recreated, or records were deleted")
        self.partition, self.offset = partition, offset


class EffectsRefused(HandlerFailed):
    """The database refuses to commit what handlers did: one swallowed an error, ended the transaction, or broke a deferred constraint."""


class RebalanceListener(Protocol):
    """Who wants to know which partitions are ours to work on."""

    async def assigned(self, partitions: Iterable[Partition]) -> None:
        """These came. Nothing of them is received before `start_at`."""
        ...

    async def revoked(self, partitions: Iterable[Partition]) -> Mapping[Partition, int]:
        """These go to somebody else as soon as this returns; it returns when work on them has ended, or took too long.

        Returns:
            How far those that were claimed got; see `committed`.
        """
        ...

    def committed(self) -> Mapping[Partition, int]:
        """The next offset of each partition that is claimed, as far as its effects are committed."""
        ...


class MessageSource(Protocol):
    """Where records come from: a broker, the log, or a list in memory. Holds no position that matters; Postgres does."""

    async def open(self, topics: Sequence[str], listener: RebalanceListener) -> None:
        """Connect and ask for a share of the partitions; the listener hears of them later.

        Raises:
            BrokerUnavailable: nobody answers.
        """
        ...

    async def close(self) -> None:
        """Give everything back; harmless twice, and after a failed `open`."""
        ...

    def reader(self, values: ValueDecoder) -> RecordReader:
        """What reads the records of this source; `values` reads those whose value was encoded."""
        ...

    async def offsets(self, partitions: Sequence[Partition]) -> Mapping[Partition, OffsetRange]:
        """What each partition holds now.

        Raises:
            BrokerUnavailable: nobody answers.
        """
        ...

    async def unread(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        """How many records are there that were not received yet; of those partitions that have started.

        Raises:
            BrokerUnavailable: nobody answers.
        """
        ...

    def start_at(self, partition: Partition, offset: int) -> None:
        """Receive this partition from the offset on."""
        ...

    def pause(self, partition: Partition) -> None:
        """Receive nothing of it for now; harmless where it is not assigned."""
        ...

    def resume(self, partition: Partition) -> None:
        """Go on after the last record received; harmless where it is not assigned."""
        ...

    async def receive(self, *, limit: int, timeout_seconds: float) -> Mapping[Partition, Sequence[SourceRecord]]:
        """The next records of each partition, in order; empty when none came in time.

        Raises:
            OffsetOutOfRange: a partition does not hold what should come next; it is never reset silently.
            BrokerUnavailable: the connection cannot go on; close and open again.
        """
        ...


class LogPartitions(Protocol):
    """What a consumer of the log itself asks of its database."""

    async def count(self) -> int:
        """Into how many partitions the log falls; the same for ever.

        Raises:
            StorageUnavailable: try again.
        """
        ...

    async def last_position(self) -> int:
        """The position of the last committed event, above the horizon or not; 0 before the first.

        Raises:
            StorageUnavailable: try again.
        """
        ...


class ParkedRows(Protocol):
    """What is parked, within one transaction. Only a partition's owner writes it; `advance` or `hold` makes sure of that before the commit."""

    async def hold(self, group: str, claimed: PartitionPosition) -> bool:
        """Whether the partition is still ours; it stays so until the transaction ends.

        Raises:
            EffectsRefused: a handler left the transaction in a state that cannot be committed.
        """
        ...

    async def open(self, group: str, partition: Partition, parked: ParkedKey, due_in_seconds: float) -> int:
        """Park a key; returns its id. Its messages are added apart."""
        ...

    async def add(self, followers: Sequence[Follower]) -> None:
        """Let messages wait behind what is parked, in this order."""
        ...

    async def read(self, parked: ParkedKey, partition: Partition, limit: int) -> Sequence[ParkedRecord]:
        """Its first messages, in order."""
        ...

    async def remove(self, message_ids: Sequence[int]) -> None:
        """These wait no more."""
        ...

    async def update(self, parked: ParkedKey, due_in_seconds: float, request: ParkedRequest | None) -> None:
        """Keep what is known of its first message now; the request, if any, was carried out or came too late."""
        ...

    async def close(self, parked: ParkedKey) -> None:
        """Nothing waits for it any more."""
        ...


class EffectTransaction(Protocol):
    """One transaction in which handlers act and positions move."""

    @property
    def parked(self) -> ParkedRows:
        """What is parked."""
        ...

    async def mark_lane(self, group: str, claimed: PartitionPosition, lane: Lane, offset: int) -> bool:
        """This lane handled everything up to the offset; False where the partition was claimed by somebody else, and then the caller rolls back.

        Raises:
            EffectsRefused: a handler left the transaction in a state that cannot be committed.
        """
        ...

    @property
    def connection(self) -> Connection:
        """The driver's connection, for a handler's own tables; UsageError where there is none."""
        ...

    @property
    def joining(self) -> CallerConnection:
        """What to give as `connection=` to an event store or publisher of the same kind, so that it joins."""
        ...

    async def append(self, stream_name: str, events: Sequence[Event | NewEvent], *, expected_version: ExpectedVersion) -> AppendResult:
        """Append within the transaction."""
        ...

    def read_stream(
        self, stream_name: str, *, from_version: int | None = None, backwards: bool = False, limit: int | None = None
    ) -> AsyncIterator[RecordedEvent]:
        """Read within the transaction, seeing its own appends."""
        ...

    async def limit_lock_wait(self, seconds: float) -> None:
        """Give up with LockTimeout, or TransactionConflict, what would wait longer for somebody else's lock."""
        ...

    def savepoint(self) -> AbstractAsyncContextManager[None]:
        """Undo what happens inside when it raises; deferred constraints are checked at its end.

        Raises:
            EffectsRefused: the block ended well, but the database would not commit it.
        """
        ...

    def interpret(self, error: Exception) -> Exception:
        """What a handler's exception means: StorageUnavailable or TransactionConflict where the database is at fault, else itself."""
        ...

    def require_open(self) -> None:
        """Make sure, cheaply, that a handler left the transaction open.

        Raises:
            EffectsRefused: it did not.
        """
        ...

    async def bury(self, letters: Sequence[DeadLetter]) -> None:
        """Keep dead letters."""
        ...

    async def advance(self, group: str, moves: Sequence[Move]) -> frozenset[Partition]:
        """Move each row that is still where and whose we believe; returns the partitions of the others, and then the caller rolls back.

        Raises:
            EffectsRefused: a handler left the transaction in a state that cannot be committed.
        """
        ...


class EffectStore(Protocol):
    """Where effects, positions and dead letters are kept."""

    async def claim(self, group: str, partition: Partition) -> PartitionPosition:
        """Become the one who may commit this partition's effects; whoever claimed it before is fenced off.

        Raises:
            StorageUnavailable, TransactionConflict: try again.
        """
        ...

    async def confirm(self, group: str, claimed: PartitionPosition) -> PartitionPosition | None:
        """The row as it is now, or None when somebody else claimed it; waits for a commit of ours whose answer was lost.

        Raises:
            StorageUnavailable, TransactionConflict: try again.
        """
        ...

    async def claim_lanes(self, group: str, claimed: PartitionPosition, lane_counts: Mapping[str, int]) -> Mapping[Lane, int] | None:
        """Take over the lanes of a partition that was claimed, and make those that are missing.

        Args:
            lane_counts: of each handler that runs in lanes.
        Returns:
            The offset up to which each lane got, also those of handlers or numbers of lanes that are no more; None when the partition was claimed
            by somebody else meanwhile.
        Raises:
            StorageUnavailable, TransactionConflict: try again.
        """
        ...

    async def parked_keys(self, group: str, claimed: PartitionPosition, monotonic: float) -> Sequence[ParkedKey]:
        """What is parked of a partition that was claimed; moments are told on a monotonic clock that now says `monotonic`.

        Raises:
            StorageUnavailable, TransactionConflict: try again.
        """
        ...

    async def topic_divisions(self, topic: str) -> Sequence[TopicDivision]:
        """Where a topic of this log was given more partitions, the earliest first.

        Raises:
            StorageUnavailable, TransactionConflict: try again.
        """
        ...

    async def group_marks(self, group: str, topic: str) -> Mapping[int, Mapping[UUID, LogPosition]]:
        """For each partition of the topic that the group ever claimed, by number, the last position applied of each log.

        Raises:
            StorageUnavailable, TransactionConflict: try again.
        """
        ...

    async def parked_requests(self, group: str, partitions: Sequence[Partition]) -> Sequence[ParkedRequest]:
        """What people want done with parked keys of these partitions, the oldest first.

        Raises:
            StorageUnavailable, TransactionConflict: try again.
        """
        ...

    def transaction(self) -> AbstractAsyncContextManager[EffectTransaction]:
        """Commits at the end of the block; rolls back when it raises.

        Raises:
            StorageUnavailable: unreachable; on the way out, whether it was committed is unknown.
            EffectsRefused: the commit was refused for what handlers did.
        """
        ...
