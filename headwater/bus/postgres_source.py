"""The log itself as a source: the same handlers, groups and promises, and no broker.

The log falls into a fixed number of partitions by the hash of the stream's name, each category for itself, as topics do. Members of a group share the
partitions' numbers by leases; a lease decides who tries, the epoch in the position's row whose commits count (rule 19). Every member reads the log
once, whatever it holds of it, and keeps what belongs to its partitions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

from headwater.bus.log_partitions import PostgresLogPartitions
from headwater.bus.log_reading import LogChanged, LogReading
from headwater.bus.log_records import FIRST_OFFSET, LogRecords
from headwater.bus.ports import LogPartitions, RebalanceListener
from headwater.bus.reading import RecordReader
from headwater.bus.values import SourceRecord
from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.coordination import LEASE_SECONDS, Holding, Leases, LeaseShare, PostgresLeases
from headwater.errors import StorageUnavailable
from headwater.eventstore import EventStore, LogTail
from headwater.kafka import OffsetRange, Partition, ValueDecoder
from headwater.postgres import Database
from headwater.randomness import SYSTEM_RANDOMNESS, Randomness
from headwater.telemetry import logger

_log = logger("bus")
LEASES_PREFIX: Final = "bus/"


class PostgresSource:
    """A `MessageSource`: this member's share of the log's partitions. Offsets are positions of the log."""

    def __init__(
        self,
        store: EventStore,
        partitions: LogPartitions,
        leases: Leases,
        *,
        group: str,
        instance_id: str | None = None,
        lease_seconds: float = LEASE_SECONDS,
        clock: Clock = SYSTEM_CLOCK,
        randomness: Randomness = SYSTEM_RANDOMNESS,
    ) -> None:
        """Remember where the log is; nothing is read yet.

        Args:
            store: gives events as they are stored; personal data is opened by who handles it.
            instance_id: a name that this process keeps over restarts, unique in the group: a quick restart then moves no partitions.
            lease_seconds: how soon a dead member's partitions are given to others.
        """
        self._store, self._partitions, self._leases = store, partitions, leases
        self._group, self._instance_id, self._lease_seconds = group, instance_id, lease_seconds
        self._clock, self._randomness = clock, randomness
        self._tail: LogTail | None = None
        self._reading: LogReading | None = None
        self._sharing: asyncio.Task[None] | None = None
        self._listener: RebalanceListener | None = None
        self._held: set[Partition] = set()

    @classmethod
    def connect(cls, database: Database, store: EventStore, *, group: str, instance_id: str | None = None) -> PostgresSource:
        """The source of a group's handlers in this database."""
        return cls(store, PostgresLogPartitions(database), PostgresLeases(database), group=group, instance_id=instance_id)

    def wake(self) -> None:
        """There may be something new in the log. Cheap, and many calls count as one."""
        if self._tail is not None:
            self._tail.wake()

    def reader(self, values: ValueDecoder) -> RecordReader:  # noqa: ARG002 - nothing was encoded
        """Events come as they were read."""
        return LogRecords()

    # -- the life of it -----------------------------------------------------------------------------------------------

    async def open(self, topics: Sequence[str], listener: RebalanceListener) -> None:
        """Begin to share the partitions of these categories; see `MessageSource.open`."""
        count = await self._partitions.count()
        self._listener = listener
        self._tail = LogTail(self._store, clock=self._clock)
        self._reading = LogReading(topics, count, self._tail, clock=self._clock)
        share = LeaseShare(
            self._leases,
            self._work_on,
            group=LEASES_PREFIX + self._group,
            items=[str(number) for number in range(count)],
            member=self._instance_id,
            lease_seconds=self._lease_seconds,
            clock=self._clock,
            randomness=self._randomness,
        )
        self._sharing = asyncio.create_task(share.run(), name=f"headwater log source {self._group}")

    async def close(self) -> None:
        """Give the partitions back and stop reading; safe twice."""
        sharing, self._sharing = self._sharing, None
        if sharing is not None:
            sharing.cancel()
            await asyncio.wait([sharing])
        reading, tail = self._reading, self._tail
        self._reading = self._tail = None
        if reading is not None and tail is not None:
            await reading.close()
            await tail.close()
        self._held.clear()

    async def _work_on(self, holding: Holding) -> None:
        """Have the consumer work on a partition's number for as long as its lease is ours; when this returns, the lease is given back."""
        listener, reading = self._listener, self._open_reading()
        assert listener is not None, "the share begins when the source is open"
        partitions = reading.partitions([int(holding.item)])
        self._held.update(partitions)
        await listener.assigned(partitions)
        reading.interrupt()
        try:
            await holding.recalled.wait()
        finally:
            self._held.difference_update(partitions)
            try:
                await listener.revoked(partitions)
            finally:
                reading.forget(partitions)

    # -- reading ------------------------------------------------------------------------------------------------------

    async def offsets(self, partitions: Sequence[Partition]) -> Mapping[Partition, OffsetRange]:
        """Where the log ends, for each of them; see `MessageSource.offsets`.

        Above the horizon, too: it may lie below what was read already, when an append began before that and has yet to draw its positions.
        """
        end = OffsetRange(FIRST_OFFSET, await self._partitions.last_position() + 1)
        return dict.fromkeys(partitions, end)

    async def unread(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        """Positions between what was read for each and the log's last event: as many events at most, for others' are among them."""
        reading = self._open_reading()
        last = (await self._store.last_checkpoint()).global_position
        return {partition: max(0, last - after) for partition, after in reading.read_through(partitions).items()}

    def start_at(self, partition: Partition, offset: int) -> None:
        """Receive this partition from a position on."""
        if partition in self._held:
            self._open_reading().start_at(partition, offset)

    def pause(self, partition: Partition) -> None:
        """Receive nothing of it for now."""
        if self._reading is not None:
            self._reading.pause(partition)

    def resume(self, partition: Partition) -> None:
        """Go on after the last record received."""
        if self._reading is not None:
            self._reading.resume(partition)

    async def receive(self, *, limit: int, timeout_seconds: float) -> Mapping[Partition, Sequence[SourceRecord]]:
        """The next events of each partition; see `MessageSource.receive`."""
        if self._sharing is not None and self._sharing.done():
            # It waits out whatever can be waited out; what ended it is for whoever runs the consumer.
            await self._sharing
        try:
            return await self._open_reading().receive(limit=limit, timeout_seconds=timeout_seconds)
        except LogChanged:
            await self._begin_anew()
            return {}

    async def _begin_anew(self) -> None:
        """Have every partition claimed again: the last event of each is then looked for in the log as it is now."""
        listener = self._listener
        assert listener is not None, "receiving from an open source"
        partitions = sorted(self._held)
        _log.warning("log_changed", group=self._group, partition_count=len(partitions))
        await listener.revoked(partitions)
        self._open_reading().forget(partitions)
        await listener.assigned([partition for partition in partitions if partition in self._held])

    def _open_reading(self) -> LogReading:
        if self._reading is None:
            raise StorageUnavailable("the source is not open")
        return self._reading
