"""What is on its way: a lane for each partition, a ledger for each shard, and the partitions that are stopped."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from headwater.clock import Clock
from headwater.eventstore import Checkpoint
from headwater.kafka import Partition, Record, position_text
from headwater.messages import LogPosition
from headwater.outbox.ports import PartitionPosition, RelayBatch
from headwater.telemetry import logger

if TYPE_CHECKING:
    from headwater.outbox.pump import Pump

_log = logger("outbox")


@dataclass(slots=True)
class SliceMark:
    """A slice of the log with batches that are not acknowledged yet."""

    end: Checkpoint
    pending: int = 1
    """Batches on their way, and one for the routing itself."""


class Ledger:
    """Up to where *every* event is acknowledged."""

    def __init__(self, start: Checkpoint) -> None:
        self.relayed_through = self.routed_through = start
        self._open: deque[SliceMark] = deque()
        self._is_held = False

    def open(self, end: Checkpoint) -> SliceMark:
        """A slice begins its way; settle it once when it is routed, and once for each batch added to `pending`.

        One that was on its way before, because the log is read again for another shard's sake, counts for nothing.
        """
        mark = SliceMark(end)
        if (end.epoch, end.global_position) > (self.routed_through.epoch, self.routed_through.global_position):
            self.routed_through = end
            if not self._is_held:
                self._open.append(mark)
        return mark

    def settle(self, mark: SliceMark) -> None:
        """One of the slice's batches is acknowledged."""
        mark.pending -= 1
        while self._open and not self._open[0].pending:
            self.relayed_through = self._open.popleft().end

    def hold(self, mark: SliceMark) -> None:
        """This slice has an event that was not sent: nothing from it on counts as acknowledged."""
        mark.pending += 1
        self._is_held = True


@dataclass(slots=True)
class Load:
    """A batch with what it means for the log."""

    batch: RelayBatch
    marks: list[SliceMark]
    """The slices its records come from."""
    last: LogPosition
    byte_count: int = 0


@dataclass(slots=True)
class Lane:
    """One partition: what it has, and what is waiting for it, in order."""

    partition: Partition
    tail: LogPosition
    """The last position that is in the partition or on its way there."""
    pump: Pump = field(kw_only=True)
    """Of the partition's shard."""
    single_until: LogPosition | None = None
    """One record a batch up to here: a larger batch was refused, and the record at fault must show itself."""
    is_stopped: bool = False
    is_sending: bool = False
    waiting: deque[Load] = field(default_factory=deque[Load])
    open_load: Load | None = None
    tail_text: bytes = b""
    """The tail as the next record names it."""

    def __post_init__(self) -> None:
        self.tail_text = position_text(self.tail)

    def add(self, record: Record, position: LogPosition, text: bytes, mark: SliceMark, new_batch: Callable[[], RelayBatch]) -> None:
        """Put a record behind all others; the slice's mark gains each batch that has some of its records."""
        load = self.open_load
        if load is None or not load.batch.append(record):
            self.close()
            load = self.open_load = Load(new_batch(), [mark], position)
            mark.pending += 1
            taken = load.batch.append(record)
            assert taken, "an empty batch takes any record"
        elif load.marks[-1] is not mark:
            load.marks.append(mark)
            mark.pending += 1
        load.last = self.tail = position
        self.tail_text = text
        load.byte_count += len(record[1])
        if self.single_until is not None and position <= self.single_until:
            self.close()

    def close(self) -> None:
        """Nothing more is added to the batch at hand."""
        if self.open_load is not None:
            self.waiting.append(self.open_load)
            self.open_load = None

    def take(self) -> Load | None:
        """The next batch to send; what is added from now on goes into another. A batch grows for as long as the one before it is on its way."""
        if not self.waiting:
            self.close()
        return self.waiting.popleft() if self.waiting else None


@dataclass(frozen=True, slots=True)
class Stop:
    """A partition that met an event it may not skip, and cannot send."""

    partition: Partition
    position: LogPosition
    reason: str
    retry_at: float
    """By the clock's monotonic seconds."""


class StopList:
    """The partitions that stand still, and those whose batches are sent one record at a time to find the culprit."""

    def __init__(self, clock: Clock, retry_seconds: float) -> None:
        self._clock, self._retry_seconds = clock, retry_seconds
        self.stops: dict[Partition, Stop] = {}
        self._single_until: dict[Partition, LogPosition] = {}

    def prepare(self, lane: Lane) -> None:
        """Tell a lane at the beginning of a session what is known of its partition; a stop whose time has come is lifted."""
        stop = self.stops.get(lane.partition)
        if stop is not None and stop.retry_at <= self._clock.monotonic():
            del self.stops[lane.partition]
        lane.is_stopped = lane.partition in self.stops
        lane.single_until = self._single_until.get(lane.partition)

    def retry_at(self) -> float:
        """When the next stop is to be tried again."""
        return min((stop.retry_at for stop in self.stops.values()), default=float("inf"))

    def refused(self, partition: Partition, load: Load, reason: str) -> None:
        """Kafka refused a batch: look for the record, or, if it was alone, stop the partition there."""
        if load.batch.record_count > 1:
            self._single_until[partition] = load.last
            _log.warning(
                "batch_refused", topic=partition.topic, partition=partition.number, record_count=load.batch.record_count, reason=reason
            )
        else:
            self.stop(partition, load.last, reason)

    def stop(self, partition: Partition, position: LogPosition, reason: str) -> None:
        """Raise the alarm: this partition stands still until the event can be sent."""
        self.stops[partition] = Stop(partition, position, reason, self._clock.monotonic() + self._retry_seconds)
        _log.error(
            "partition_stopped",
            topic=partition.topic,
            partition=partition.number,
            position=str(position),
            reason=reason,
            retry_in_seconds=self._retry_seconds,
            what_to_do="mend the topic's settings or the event's encoding; the relay never skips, other partitions go on",
        )


def acknowledged(load: Load, first_offset: int) -> PartitionPosition:
    """Where the last record of an acknowledged batch is."""
    return PartitionPosition(load.last, first_offset + load.batch.record_count - 1)
