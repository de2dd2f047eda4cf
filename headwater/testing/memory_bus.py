"""The bus without servers: a source that serves a memory store's log as Kafka's relay would, and effects that land in that store.

    store = MemoryEventStore()
    source, effects = MemorySource(store), MemoryEffects(store)
    consumer = Consumer(group="shop", subscriptions=service.subscriptions, source=source, effects=effects)

What an append in a handler stores appears when the batch commits, and is then served like everything else in the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from headwater.bus import EncodedRecords, OffsetOutOfRange, RebalanceListener, RecordReader, SourceRecord
from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.errors import BrokerUnavailable
from headwater.eventstore import (
    EventStore,
)
from headwater.kafka import (
    JSON_ENCODER,
    Envelope,
    OffsetRange,
    Partition,
    ValueDecoder,
    ValueEncoder,
    encode_envelope,
    event_topic,
    partition_of,
)
from headwater.messages import (
    LOG_START,
    LogPosition,
)

PARTITION_COUNT_DEFAULT: Final = 3
"""More than one, so that a handler that counts on order across streams fails its test."""
_SOURCE: Final = "/memory"
_LOOK_SECONDS: Final = 0.002
_TAKEN_MAX: Final = 1_000


@dataclass(frozen=True, slots=True)
class MemoryRecord:
    """One record of a memory topic."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


@dataclass(slots=True)
class _HeldPartition:
    records: list[MemoryRecord] = field(default_factory=list[MemoryRecord])
    first: int = 0
    """Offsets below it were deleted."""
    previous: LogPosition = LOG_START


class DisturbsTopics(Protocol):
    """Somebody who makes a memory broker as unpleasant as its contract allows."""

    def to_repeat(self, partition: Partition, envelope: Envelope) -> Sequence[Envelope]:
        """Records of this partition to put in once more, after the one that was just put."""
        ...

    async def receiving(self) -> None:
        """A member asks for records, and there are some."""
        ...

    def served(self, partitions: Sequence[Partition]) -> Sequence[Partition]:
        """Those that a member gets records of now, in this order."""
        ...

    def amount(self, limit: int) -> int:
        """How many records of a partition, at least 1."""
        ...


class MemoryTopics:
    """Topics that are filled from a store's log, as a relay would; one instance can serve many sources, like a broker."""

    def __init__(
        self, store: EventStore | None = None, *, partition_count: int = PARTITION_COUNT_DEFAULT, values: ValueEncoder = JSON_ENCODER
    ) -> None:
        self._store, self.partition_count, self._values = store, partition_count, values
        self._held: dict[Partition, _HeldPartition] = {}
        self._checkpoint = 0
        self._members: dict[str, list[MemorySource]] = {}
        self._turn = asyncio.Lock()
        """Several sources share the topics; two that relay at once would put an event in twice."""
        self._sharing = asyncio.Lock()
        """Rebalances take turns; two at once could give a partition to two members, or to none."""
        self.disturber: DisturbsTopics | None = None
        self.is_reachable = True
        """Set it to False to take the broker away."""

    def partitions(self, topics: Sequence[str]) -> list[Partition]:
        """Every partition of these topics."""
        return [Partition(topic, number) for topic in topics for number in range(self.partition_count)]

    async def relay(self) -> int:
        """Put what is new in the log into the topics; returns how many events that were."""
        if self._store is None:
            return 0
        async with self._turn:
            return await self._relay_from(self._store)

    async def _relay_from(self, store: EventStore) -> int:
        identity = await store.identity()
        count = 0
        while events := (await store.read_log(after=self._checkpoint)).events:
            await self._values.prepare({event.type for event in events})
            for event in events:
                partition = Partition(event_topic(event), partition_of(event.stream_name.encode(), self.partition_count))
                held = self._hold(partition)
                position = identity.locate(event.global_position)
                envelope = Envelope(event, identity.log_id, position, held.previous)
                self.put_envelope(partition, envelope)
                held.previous = position
                for again in self.disturber.to_repeat(partition, envelope) if self.disturber is not None else ():
                    self.put_envelope(partition, again)
            self._checkpoint = events[-1].global_position
            count += len(events)
        return count

    def put_envelope(self, partition: Partition, envelope: Envelope) -> int:
        """Add a record as given, whatever its chain; returns its offset."""
        encoded = self._values.encode(envelope.event)
        key, value, headers, timestamp = encode_envelope(envelope, source=_SOURCE, encoded=encoded)
        return self.put(partition, key=key, value=value, headers=headers, timestamp=timestamp)

    def put(
        self,
        partition: Partition,
        *,
        key: bytes | None = None,
        value: bytes | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
        timestamp: int = 0,
    ) -> int:
        """Add any record, a foreign one for instance; returns its offset."""
        held = self._hold(partition)
        offset = held.first + len(held.records)
        held.records.append(MemoryRecord(*partition, offset, timestamp, key, value, tuple(headers)))
        return offset

    def delete_before(self, partition: Partition, offset: int) -> None:
        """Lose the records below an offset, as retention would."""
        held = self._hold(partition)
        del held.records[: offset - held.first]
        held.first = offset

    def recreate(self, topic: str) -> None:
        """Lose everything in a topic, as deleting and making it anew would."""
        for partition in self.partitions([topic]):
            self._held.pop(partition, None)

    def range_of(self, partition: Partition) -> OffsetRange:
        """What the partition holds."""
        held = self._hold(partition)
        return OffsetRange(held.first, held.first + len(held.records))

    def records(self, partition: Partition, offset: int, limit: int) -> Sequence[MemoryRecord]:
        """The records from an offset on."""
        held = self._hold(partition)
        start = offset - held.first
        return held.records[start : start + limit]

    async def join(self, group: str, member: MemorySource) -> None:
        """Give a new member its share of its topics' partitions; the others give up what they have too much."""
        async with self._sharing:
            self._members.setdefault(group, []).append(member)
            await self._rebalance(group)

    async def leave(self, group: str, member: MemorySource) -> None:
        """Share out what a member had; harmless when it has left already."""
        async with self._sharing:
            if member in (members := self._members.get(group, [])):
                members.remove(member)
                await self._rebalance(group)

    async def rotate(self, group: str) -> None:
        """Give every member another one's share."""
        async with self._sharing:
            if members := self._members.get(group, []):
                members.append(members.pop(0))
                await self._rebalance(group)

    async def _rebalance(self, group: str) -> None:
        members = list(self._members[group])
        shares: dict[MemorySource, list[Partition]] = {
            member: self.partitions(member.subscribed)[number :: len(members)] for number, member in enumerate(members)
        }
        for member, share in shares.items():
            if given_up := sorted(member.assigned - set(share)):
                await member.revoke(given_up)
        for member, share in shares.items():
            if member in self._members[group] and (gained := sorted(set(share) - member.assigned)):
                await member.assign(gained)

    def _hold(self, partition: Partition) -> _HeldPartition:
        return self._held.setdefault(partition, _HeldPartition())


class MemorySource:
    """A `MessageSource` over memory topics. Members of a group share the partitions; without one it has all, and tests move them by hand."""

    def __init__(
        self,
        topics: MemoryTopics | EventStore,
        *,
        clock: Clock = SYSTEM_CLOCK,
        share: Sequence[Partition] | None = None,
        group: str | None = None,
    ) -> None:
        """Serve these topics, or those that a store's log fills.

        Args:
            share: the partitions assigned on opening, by default all.
            group: share them with the other sources of this group over the same topics instead.
        """
        self.topics = topics if isinstance(topics, MemoryTopics) else MemoryTopics(topics)
        self._clock, self._share, self._group = clock, share, group
        self.subscribed: Sequence[str] = ()
        self._next: dict[Partition, int] = {}
        self._assigned: set[Partition] = set()
        self._paused: set[Partition] = set()
        self._listener: RebalanceListener | None = None
        self.open_count = 0

    async def open(self, topics: Sequence[str], listener: RebalanceListener) -> None:
        """Assign the share; see `MessageSource.open`."""
        await self._clock.sleep(0)
        self._require_broker()
        self._listener, self.subscribed = listener, topics
        self.open_count += 1
        if self._group is not None:
            await self.topics.join(self._group, self)
        else:
            await self.assign(self.topics.partitions(topics) if self._share is None else self._share)

    @property
    def assigned(self) -> frozenset[Partition]:
        """What it has now."""
        return frozenset(self._assigned)

    async def close(self) -> None:
        if self._group is not None:
            await self.topics.leave(self._group, self)
        self._assigned.clear()
        self._next.clear()
        self._paused.clear()
        self._listener = None

    async def assign(self, partitions: Sequence[Partition]) -> None:
        """Give these partitions to the consumer, as a rebalance would."""
        assert self._listener is not None, "open it first"
        self._assigned.update(partitions)
        await self._listener.assigned(partitions)

    async def revoke(self, partitions: Sequence[Partition]) -> None:
        """Take these partitions away, as a rebalance would."""
        assert self._listener is not None, "open it first"
        await self._listener.revoked(partitions)
        for partition in partitions:
            self._assigned.discard(partition)
            self._next.pop(partition, None)
            self._paused.discard(partition)

    def reader(self, values: ValueDecoder) -> RecordReader:
        """Reads what a relay wrote."""
        return EncodedRecords(values)

    async def offsets(self, partitions: Sequence[Partition]) -> Mapping[Partition, OffsetRange]:
        await self._clock.sleep(0)
        self._require_broker()
        return {partition: self.topics.range_of(partition) for partition in partitions}

    async def unread(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        await self._clock.sleep(0)
        self._require_broker()
        await self.topics.relay()
        return {
            partition: self.topics.range_of(partition).end - self._next[partition] for partition in partitions if partition in self._next
        }

    def start_at(self, partition: Partition, offset: int) -> None:
        self._next[partition] = offset
        self._paused.discard(partition)

    def pause(self, partition: Partition) -> None:
        self._paused.add(partition)

    def resume(self, partition: Partition) -> None:
        self._paused.discard(partition)

    async def receive(self, *, limit: int, timeout_seconds: float) -> Mapping[Partition, Sequence[SourceRecord]]:
        """What is there, else what is there after the wait; see `MessageSource.receive`."""
        self._require_broker()
        await self.topics.relay()
        if self.topics.disturber is not None and any(self.topics.range_of(one).end > offset for one, offset in self._next.items()):
            await self.topics.disturber.receiving()
        received = self._take(limit)
        if not received:
            await self._clock.sleep(timeout_seconds)
            await self.topics.relay()
            received = self._take(limit)
        return received

    def _take(self, limit: int) -> dict[Partition, Sequence[SourceRecord]]:
        taken: dict[Partition, Sequence[SourceRecord]] = {}
        disturber = self.topics.disturber
        for partition in list(self._next) if disturber is None else disturber.served(list(self._next)):
            offset = self._next[partition]
            held = self.topics.range_of(partition)
            if partition in self._paused or partition not in self._assigned:
                continue
            if not held.first <= offset <= held.end:
                raise OffsetOutOfRange(partition, offset)
            if records := self.topics.records(partition, offset, limit if disturber is None else disturber.amount(limit)):
                taken[partition] = records
                self._next[partition] = records[-1].offset + 1
                limit -= len(records)
            if limit <= 0:
                break
        return taken

    def _require_broker(self) -> None:
        if not self.topics.is_reachable:
            raise BrokerUnavailable("the memory broker was taken away")


class MemoryLogPartitions:
    """`LogPartitions` of a store in memory."""

    def __init__(self, store: EventStore, *, partition_count: int = PARTITION_COUNT_DEFAULT) -> None:
        self._store, self._partition_count = store, partition_count

    async def count(self) -> int:
        return self._partition_count

    async def last_position(self) -> int:
        return await self._store.horizon()


class MemoryReplySource:
    """A `ReplySource` over memory topics."""

    def __init__(self, topics: MemoryTopics, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._topics, self._clock = topics, clock
        self._next: dict[Partition, int] = {}

    async def open(self, topic: str) -> None:
        """Begin at the end, or where it was left; see `ReplySource.open`."""
        self._require_broker()
        await self._topics.relay()
        for partition in self._topics.partitions([topic]):
            self._next.setdefault(partition, self._topics.range_of(partition).end)

    async def receive(self, *, timeout_seconds: float) -> Sequence[MemoryRecord]:
        """What is there; see `ReplySource.receive`."""
        self._require_broker()
        await self._topics.relay()
        received = self._take()
        if not received:
            await self._clock.sleep(min(timeout_seconds, _LOOK_SECONDS))
        return received

    async def close(self) -> None:
        """Nothing to let go of."""

    def _take(self) -> list[MemoryRecord]:
        taken: list[MemoryRecord] = []
        for partition, offset in self._next.items():
            records = self._topics.records(partition, offset, _TAKEN_MAX)
            taken += records
            self._next[partition] = offset + len(records)
        return taken

    def _require_broker(self) -> None:
        if not self._topics.is_reachable:
            raise BrokerUnavailable("the memory broker was taken away")
