"""From the log into the partitions: read, route, send, remember; until there is a reason to begin a new session."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from headwater.clock import Clock
from headwater.errors import HeadwaterError, RecordRefused, RelayFenced
from headwater.eventstore import Checkpoint, LogIdentity, LogSlice
from headwater.kafka import Envelope, Partition, ValueEncoder, encode_envelope, event_topic, partition_of, topic_of
from headwater.messages import LogPosition, RecordedEvent, category_of
from headwater.metrics import NO_METRICS, RELAY_EVENTS, Metrics
from headwater.outbox.doorbell import Doorbell
from headwater.outbox.lanes import Lane, Ledger, SliceMark, StopList, acknowledged
from headwater.outbox.options import POLL_SECONDS_MIN, SLICE_BYTES_TARGET, SLICE_EVENTS_FIRST, UNACKNOWLEDGED_BYTES_MAX, RelayOptions
from headwater.outbox.ports import FencedWriter, Lease, PartitionPosition, RelayBroker, RelayPositions, RelaySource
from headwater.telemetry import logger

_STREAMS_CACHED_MAX: Final = 65_536
_log = logger("outbox")


@dataclass(frozen=True, slots=True)
class RelayParts:
    """What a relay is made of."""

    source: RelaySource
    broker: RelayBroker
    positions: RelayPositions
    clock: Clock
    doorbell: Doorbell
    stops: StopList
    options: RelayOptions
    event_source: str
    """The CloudEvents source of every record."""
    values: ValueEncoder
    metrics: Metrics = NO_METRICS


class LogReader:
    """Reads the log slice by slice, each as large as the last one's bytes allow."""

    def __init__(self, source: RelaySource, identity: LogIdentity, after: int, events_max: int) -> None:
        self._source, self._identity = source, identity
        self._after, self._limit, self._limit_max = after, min(SLICE_EVENTS_FIRST, events_max), events_max

    async def read(self) -> LogSlice | None:
        """The next slice; None when the log's server changed meanwhile, so that nothing of it may be trusted."""
        found = await self._source.read_log(after=self._after, limit=self._limit)
        if not found.events:
            return found
        # Asked after the read: if the log is the same now, it was the same then.
        if await self._source.identity() != self._identity:
            return None
        self._after = found.events[-1].global_position
        byte_count = sum(len(event.data) for event in found.events)
        if byte_count > SLICE_BYTES_TARGET:
            self._limit = max(1, self._limit * SLICE_BYTES_TARGET // byte_count)
        elif len(found.events) == self._limit:
            self._limit = min(self._limit * 2, self._limit_max)
        return found


class Pump:
    """One session's work, between the fence and the first reason to raise another."""

    def __init__(
        self, parts: RelayParts, lease: Lease, identity: LogIdentity, writer: FencedWriter, lanes: Mapping[Partition, Lane], ledger: Ledger
    ) -> None:
        self._parts, self._lease, self._identity, self._writer = parts, lease, identity, writer
        self._lanes, self._ledger = lanes, ledger
        self._partition_counts: dict[str, int] = {}
        for partition in lanes:
            self._partition_counts[partition.topic] = self._partition_counts.get(partition.topic, 0) + 1
        self._lane_of_stream: dict[str, Lane] = {}
        self._moved: dict[Partition, PartitionPosition] = {}
        self._saved_through = ledger.relayed_through
        self._unacknowledged_bytes = 0
        self._progress = asyncio.Event()
        self.relayed_count = 0
        self.new_topics: set[str] = set()

    async def run(self, stopping: asyncio.Event, until: float) -> None:
        """Relay until told to stop, until that moment of the clock, or until a topic turns up that is not fenced yet.

        Returns with everything acknowledged and saved.

        Raises:
            RelayFenced, BrokerUnavailable, RecordRefused, StorageUnavailable: the session is over; the writer must be abandoned.
        """
        try:
            async with asyncio.TaskGroup() as group:
                saver = group.create_task(self._save_regularly())
                await self._relay(group, stopping, until)
                await self._wait_until(0)
                saver.cancel()
        except BaseExceptionGroup as failures:
            raise _most_telling(failures) from failures
        await self._save()

    async def _relay(self, group: asyncio.TaskGroup, stopping: asyncio.Event, until: float) -> None:
        reader = LogReader(
            self._parts.source, self._identity, self._ledger.relayed_through.global_position, self._parts.options.slice_events_max
        )
        pause = POLL_SECONDS_MIN
        ahead = group.create_task(reader.read())
        try:
            while not stopping.is_set() and self._parts.clock.monotonic() < until:
                found = await ahead
                if found is None or self._has_new_topics(found):
                    return
                if found.events:
                    pause = POLL_SECONDS_MIN
                    ahead = group.create_task(reader.read())
                    await self._parts.values.prepare({event.type for event in found.events})
                    self._route(found, group)
                    await self._wait_until(UNACKNOWLEDGED_BYTES_MAX)
                else:
                    was_rung = await self._parts.doorbell.wait(pause)
                    pause = POLL_SECONDS_MIN if was_rung else min(pause * 2, self._parts.options.poll_seconds_max)
                    ahead = group.create_task(reader.read())
        finally:
            ahead.cancel()

    def _has_new_topics(self, found: LogSlice) -> bool:
        self.new_topics = {event_topic(event, self._parts.options.topic_prefix) for event in found.events} - self._partition_counts.keys()
        return bool(self.new_topics)

    def _route(self, found: LogSlice, group: asyncio.TaskGroup) -> None:
        """Give every event to its partition's lane, and set the lanes going."""
        last = found.events[-1]
        end = Checkpoint(self._identity.locate(last.global_position).epoch, last.global_position, last.event_id)
        mark = self._ledger.open(end)
        touched: dict[Partition, Lane] = {}
        for event in found.events:
            lane = self._lane(event.stream_name)
            position = self._identity.locate(event.global_position)
            if position > lane.tail:
                touched[lane.partition] = lane
                self._add(lane, event, position, mark)
        for lane in touched.values():
            lane.close()
            if lane.waiting and not lane.is_sending:
                lane.is_sending = True
                group.create_task(self._send(lane))
        self._ledger.settle(mark)

    def _lane(self, stream_name: str) -> Lane:
        lane = self._lane_of_stream.get(stream_name)
        if lane is None:
            topic = topic_of(category_of(stream_name), self._parts.options.topic_prefix)
            lane = self._lanes[Partition(topic, partition_of(stream_name.encode(), self._partition_counts[topic]))]
            if len(self._lane_of_stream) >= _STREAMS_CACHED_MAX:
                self._lane_of_stream.clear()
            self._lane_of_stream[stream_name] = lane
        return lane

    def _add(self, lane: Lane, event: RecordedEvent, position: LogPosition, mark: SliceMark) -> None:
        if not lane.is_stopped:
            envelope = Envelope(event=event, log_id=self._identity.log_id, position=position, previous=lane.tail)
            try:
                record = encode_envelope(envelope, source=self._parts.event_source, encoded=self._parts.values.encode(event))
            except (ValueError, TypeError) as error:
                lane.is_stopped = True
                self._parts.stops.stop(lane.partition, position, f"{event.type} ({event.event_id}) cannot be encoded: {error}")
            else:
                lane.add(record, position, mark, self._writer.new_batch)
                self._unacknowledged_bytes += len(record[1])
                return
        self._ledger.hold(mark)

    async def _send(self, lane: Lane) -> None:
        """Send the lane's batches, each after the one before is acknowledged."""
        while lane.waiting:
            load = lane.waiting.popleft()
            try:
                first_offset = await self._writer.send(lane.partition, load.batch)
            except RecordRefused as error:
                self._parts.stops.refused(lane.partition, load, str(error))
                raise
            self._moved[lane.partition] = acknowledged(load, first_offset)
            self._ledger.settle(load.mark)
            self._unacknowledged_bytes -= load.byte_count
            self.relayed_count += load.batch.record_count
            self._parts.metrics.add(RELAY_EVENTS, load.batch.record_count)
            self._progress.set()
            _log.debug("events_relayed", partition=str(lane.partition), position=str(load.last), event_count=load.batch.record_count)
        lane.is_sending = False

    async def _wait_until(self, unacknowledged_bytes_max: int) -> None:
        while self._unacknowledged_bytes > unacknowledged_bytes_max:
            self._progress.clear()
            await self._progress.wait()

    async def _save_regularly(self) -> None:
        while True:
            await self._parts.clock.sleep(self._parts.options.checkpoint_seconds)
            await self._save()

    async def _save(self) -> None:
        through, moved = self._ledger.relayed_through, dict(self._moved)
        if not moved and through == self._saved_through:
            return
        await self._parts.positions.save(self._lease, through, moved)
        self._saved_through = through
        # Only now, and only what did not move on meanwhile: a save that was cut off is done again whole.
        for partition, kept in moved.items():
            if self._moved[partition] is kept:
                del self._moved[partition]


def _most_telling(failures: BaseExceptionGroup[Any]) -> BaseException:
    """One error for several lanes' failures: being fenced explains the rest, a refusal comes before what it made fail."""
    leaves = list(_leaves(failures))
    for kind in (RelayFenced, RecordRefused):
        for leaf in leaves:
            if isinstance(leaf, kind):
                return leaf
    return next((leaf for leaf in leaves if not isinstance(leaf, HeadwaterError)), leaves[0])


def _leaves(failures: BaseExceptionGroup[Any]) -> list[BaseException]:
    found: list[BaseException] = []
    for failure in cast("tuple[BaseException, ...]", failures.exceptions):
        found += _leaves(cast("BaseExceptionGroup[BaseException]", failure)) if isinstance(failure, BaseExceptionGroup) else [failure]
    return found
