"""One shard's work, from the fence to the first reason to raise another: take events, send them, remember what was acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from headwater.clock import Clock
from headwater.coordination import Holding
from headwater.errors import HeadwaterError, RecordRefused, RelayFenced
from headwater.eventstore import Checkpoint, LogIdentity
from headwater.kafka import Partition, RecordEncoder, ValueEncoder, position_text
from headwater.messages import LogPosition, RecordedEvent
from headwater.metrics import NO_METRICS, RELAY_EVENTS, Metrics
from headwater.outbox.doorbell import Doorbell
from headwater.outbox.lanes import Lane, Ledger, SliceMark, StopList, acknowledged
from headwater.outbox.options import RelayOptions
from headwater.outbox.ports import Division, FencedWriter, PartitionPosition, RelayBroker, RelayPositions, RelaySource
from headwater.randomness import Randomness
from headwater.telemetry import logger

_log = logger("outbox")


@dataclass(frozen=True, slots=True)
class RelayParts:
    """What a relay is made of."""

    source: RelaySource
    broker: RelayBroker
    positions: RelayPositions
    clock: Clock
    randomness: Randomness
    doorbell: Doorbell
    options: RelayOptions
    event_source: str
    """The CloudEvents source of every record."""
    values: ValueEncoder
    metrics: Metrics = NO_METRICS


class PumpFeeds(Protocol):
    """What gives pumps their events."""

    def attach(self, pump: Pump) -> None:
        """Feed it from where it stands."""
        ...

    def detach(self, pump: Pump) -> None:
        """Feed it no more."""
        ...


class Pump:
    """One shard's session between the fence and its end."""

    def __init__(
        self,
        parts: RelayParts,
        holding: Holding,
        identity: LogIdentity,
        writer: FencedWriter | None,
        stops: StopList,
        partition_counts: Mapping[str, int],
        divisions: Mapping[str, Sequence[Division]],
        start: Checkpoint,
    ) -> None:
        """Put it together; `add_lane` follows for each partition.

        Args:
            writer: None for a shard without partitions, which only keeps its checkpoint.
            partition_counts: of all topics that were looked at when the shard was fenced, also where this shard has none of them.
            divisions: of topics that were given more partitions, how their earlier events are divided.
        """
        self._parts, self._holding, self.identity, self._writer, self._stops = parts, holding, identity, writer, stops
        self.partition_counts: Final = partition_counts
        self.divisions: Final = divisions
        self._records = RecordEncoder(identity.log_id, source=parts.event_source)
        self.lanes: dict[Partition, Lane] = {}
        self._ledger = Ledger(start)
        self._mark: SliceMark | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures: list[BaseException] = []
        self._over = asyncio.Event()
        self._is_closed = False
        self._moved: dict[Partition, PartitionPosition] = {}
        self._saved_through = start
        self._progress = asyncio.Event()
        self.feed_progress: asyncio.Event | None = None
        """Whose feed it is wants to know of progress, too."""
        self.unacknowledged_bytes = 0
        self.relayed_count = 0
        self.new_topics: set[str] = set()

    def add_lane(self, partition: Partition, tail: LogPosition) -> None:
        """One of the shard's partitions, with the last position it holds."""
        lane = self.lanes[partition] = Lane(partition, tail, pump=self)
        self._stops.prepare(lane)

    @property
    def relayed_through(self) -> Checkpoint:
        """Everything of the shard up to here is acknowledged."""
        return self._ledger.relayed_through

    @property
    def routed_through(self) -> Checkpoint:
        """Everything of the shard up to here is acknowledged, or on its way."""
        return self._ledger.routed_through

    async def run(self, feeds: PumpFeeds, until: float) -> None:
        """Relay until recalled, until that moment of the clock, until a stopped partition is due, or until the feed meets a topic not fenced yet.

        Returns with everything acknowledged and saved.

        Raises:
            RelayFenced, BrokerUnavailable, RecordRefused, StorageUnavailable: the session is over; the writer must be abandoned.
        """
        for helper in (self._save_regularly(), self._end_at(min(until, self._stops.retry_at())), self._end_when_recalled()):
            self._begin(helper)
        try:
            feeds.attach(self)
            try:
                await self._over.wait()
            finally:
                feeds.detach(self)
            await self._drain()
        finally:
            self._is_closed = True
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._failures:
            raise _most_telling(self._failures)
        await self._save()

    def end(self) -> None:
        """Finish what is on its way, save and return from `run`."""
        self._over.set()

    def fail(self, error: BaseException) -> None:
        """Raise this from `run`, unless something more telling fails, too."""
        self._failures.append(error)
        self._over.set()
        self._progress.set()

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error)

    # -- the feed's side ----------------------------------------------------------------------------------------------

    def open_slice(self, end: Checkpoint) -> None:
        """A slice of the log begins, which ends there."""
        self._mark = self._ledger.open(end)

    def add(self, lane: Lane, event: RecordedEvent, position: LogPosition) -> None:
        """The next event of one of the shard's partitions."""
        assert self._mark is not None and self._writer is not None, "inside a slice, to a shard that has partitions"
        if not lane.is_stopped:
            text = position_text(position)
            try:
                record = self._records.encode(event, self._parts.values.encode(event), text, lane.tail_text)
            except (ValueError, TypeError) as error:
                lane.is_stopped = True
                self._stops.stop(lane.partition, position, f"{event.type} ({event.event_id}) cannot be encoded: {error}")
                self._begin(self._end_at(self._stops.retry_at()))
            else:
                lane.add(record, position, text, self._mark, self._writer.new_batch)
                self.unacknowledged_bytes += len(record[1])
                return
        self._ledger.hold(self._mark)

    def set_going(self, lane: Lane) -> None:
        """There is something in the lane to send."""
        if not (lane.is_sending or self._is_closed):
            lane.is_sending = True
            self._begin(self._send(lane))

    def close_slice(self) -> None:
        """The slice is routed."""
        assert self._mark is not None, "inside a slice"
        self._ledger.settle(self._mark)
        self._mark = None

    # -- Kafka's side -------------------------------------------------------------------------------------------------

    async def _send(self, lane: Lane) -> None:
        """Send the lane's batches, each after the one before is acknowledged."""
        assert self._writer is not None, "a shard with partitions has a writer"
        while (load := lane.take()) is not None:
            try:
                first_offset = await self._writer.send(lane.partition, load.batch)
            except RecordRefused as error:
                self._stops.refused(lane.partition, load, str(error))
                raise
            self._moved[lane.partition] = acknowledged(load, first_offset)
            for mark in load.marks:
                self._ledger.settle(mark)
            self.unacknowledged_bytes -= load.byte_count
            self.relayed_count += load.batch.record_count
            self._parts.metrics.add(RELAY_EVENTS, load.batch.record_count)
            self._progress.set()
            if self.feed_progress is not None:
                self.feed_progress.set()
            _log.debug("events_relayed", partition=str(lane.partition), position=str(load.last), event_count=load.batch.record_count)
        lane.is_sending = False

    async def _drain(self) -> None:
        while self.unacknowledged_bytes and not self._failures:
            self._progress.clear()
            await self._progress.wait()

    async def _end_at(self, until: float) -> None:
        while (left := until - self._parts.clock.monotonic()) > 0:
            await self._parts.clock.sleep(left)
        self.end()

    async def _end_when_recalled(self) -> None:
        await self._holding.recalled.wait()
        self.end()

    # -- PostgreSQL's side --------------------------------------------------------------------------------------------

    async def _save_regularly(self) -> None:
        while True:
            await self._parts.clock.sleep(self._parts.options.checkpoint_seconds)
            await self._save()

    async def _save(self) -> None:
        through, moved = self._ledger.relayed_through, dict(self._moved)
        if not moved and through == self._saved_through:
            return
        await self._parts.positions.save(self._holding.item, self._holding.lease, through, moved)
        self._saved_through = through
        # Only now, and only what did not move on meanwhile: a save that was cut off is done again whole.
        for partition, kept in moved.items():
            if self._moved[partition] is kept:
                del self._moved[partition]


def _most_telling(failures: Sequence[BaseException]) -> BaseException:
    """One error for several lanes' failures: being fenced explains the rest, a refusal comes before what it made fail."""
    for kind in (RelayFenced, RecordRefused):
        for failure in failures:
            if isinstance(failure, kind):
                return failure
    return next((failure for failure in failures if not isinstance(failure, HeadwaterError)), failures[0])
