"""Taking a shard: topics, fence, tails; and then its pump."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

from headwater.coordination import Holding
from headwater.errors import RelayFenced, RelayStopped
from headwater.eventstore import Checkpoint, LogIdentity
from headwater.kafka import Partition
from headwater.outbox.lanes import StopList
from headwater.outbox.options import BACK_OFF_SECONDS_MIN
from headwater.outbox.ports import FencedWriter, PartitionPosition, RelayProgress
from headwater.outbox.pump import Pump, RelayParts
from headwater.outbox.shards import shard_of, transactional_id
from headwater.outbox.tails import Tail, find_tails
from headwater.outbox.topics import TopicDesk
from headwater.telemetry import logger

_log = logger("outbox")


class ShardOpening:
    """From the lease of a shard to a pump that may run."""

    def __init__(self, parts: RelayParts, topics: TopicDesk, holding: Holding, stops: StopList, *, one_by_one: asyncio.Lock) -> None:
        """Put it together.

        Args:
            one_by_one: among the shards of this process, for what all do under the same transactional id.
        """
        self._parts, self._topics, self._holding, self._stops, self._one_by_one = parts, topics, holding, stops, one_by_one
        self._shard = holding.item

    @asynccontextmanager
    async def opened(self, extra_topics: set[str]) -> AsyncGenerator[Pump]:
        """Fence whoever relayed the shard before, look how far it got, and be ready to go on from there.

        Args:
            extra_topics: to be fenced beside those that were ever relayed to.
        Raises:
            LogDiverged: the log lost events that are in Kafka already; consumers have seen what never was.
            RelayStopped: a topic has another number of partitions than it had.
            RelayFenced, BrokerUnavailable, StorageUnavailable: start over.
        """
        parts, shard, term = self._parts, self._shard, self._holding.lease.term
        identity = await parts.source.identity()
        progress = await parts.positions.load(shard)
        await parts.source.verify_checkpoint(progress.relayed_through)
        counts = await self._partition_counts(set(progress.topics) | extra_topics, progress)
        partitions = [partition for partition in _partitions(counts) if shard_of(partition) == shard]
        if progress.predecessor is not None:
            await self._fence_predecessor(identity, progress.predecessor, partitions)
        writer = await parts.broker.fence(transactional_id(identity, shard), partitions) if partitions else None
        try:
            # Whoever adds partitions fences us afterwards; if that came first, we must not go on with what we saw before.
            if await self._topics.ensure(set(counts)) != counts:
                raise RelayFenced("a topic was given more partitions meanwhile")
            _log.info("relay_fenced", shard=shard, term=term, partition_count=len(partitions))
            pump = await self._look(identity, progress, partitions, writer, counts)
            _log.info("relay_started", shard=shard, term=term, log_id=str(identity.log_id), after=pump.routed_through.global_position)
            yield pump
        finally:
            if writer is not None:
                await writer.abandon()

    async def _look(
        self,
        identity: LogIdentity,
        progress: RelayProgress,
        partitions: list[Partition],
        writer: FencedWriter | None,
        counts: Mapping[str, int],
    ) -> Pump:
        tails: Mapping[Partition, Tail] = await self._tails(identity, progress, partitions) if partitions else dict[Partition, Tail]()
        start = await self._begin(progress, tails)
        pump = Pump(self._parts, self._holding, identity, writer, self._stops, counts, progress.divisions, start)
        for partition, tail in tails.items():
            pump.add_lane(partition, tail.position)
        return pump

    async def _fence_predecessor(self, identity: LogIdentity, predecessor: str, partitions: list[Partition]) -> None:
        """Shut the relay of a shard of an earlier division out of these partitions; relays of other shards may do the same right now."""
        async with self._one_by_one:
            while partitions:
                try:
                    writer = await self._parts.broker.fence(transactional_id(identity, predecessor), partitions)
                except RelayFenced:
                    await self._parts.clock.sleep(self._parts.randomness.uniform(0.5, 1.5) * BACK_OFF_SECONDS_MIN)
                else:
                    await writer.abandon()
                    break
        _log.info("relay_before_fenced", shard=self._shard, predecessor=predecessor, partition_count=len(partitions))

    async def _partition_counts(self, topics: set[str], progress: RelayProgress) -> Mapping[str, int]:
        counts = await self._topics.ensure(topics)
        for topic, count in counts.items():
            if (was := progress.topics.get(topic, count)) != count:
                raise RelayStopped(_not_as_before(topic, was, count))
        if new := {topic: count for topic, count in counts.items() if topic not in progress.topics}:
            await self._parts.positions.record_topics(new)
        return counts

    async def _tails(self, identity: LogIdentity, progress: RelayProgress, partitions: list[Partition]) -> Mapping[Partition, Tail]:
        async with self._parts.broker.open_reader() as reader:
            tails = await find_tails(reader, identity.log_id, progress.positions, partitions)
        relayed_through = progress.relayed_through
        for tail in tails.values():
            # What was read from the log after the checkpoint may have been lost there since; Kafka remembers it.
            if tail.event_id is not None and tail.position > (relayed_through.epoch, relayed_through.global_position):
                await self._parts.source.verify_checkpoint(tail.checkpoint)
        return tails

    async def _begin(self, progress: RelayProgress, tails: Mapping[Partition, Tail]) -> Checkpoint:
        """Where to read the log from: the checkpoint, or further back where Kafka lost records."""
        rewound = {partition: tail for partition, tail in tails.items() if tail.is_rewound}
        if not rewound:
            if progress.predecessor is not None:
                await self._parts.positions.save(self._shard, self._holding.lease, progress.relayed_through, {})
            return progress.relayed_through
        start = min([progress.relayed_through, *(tail.checkpoint for tail in rewound.values())], key=lambda c: (c.epoch, c.global_position))
        # Saved before anything is sent: a crash in the middle must not leave a checkpoint above what is missing.
        moved = {partition: PartitionPosition(tail.position, tail.offset) for partition, tail in rewound.items()}
        await self._parts.positions.save(self._shard, self._holding.lease, start, moved)
        return start


def _not_as_before(topic: str, was: int, count: int) -> str:
    moved = f"the topic {topic!r} had {was} partitions when it was relayed to and has {count} now: streams would change their partition and lose their order. "
    anew = f"make the topic anew with {was}; it is filled again from the log"
    if count < was:
        return f"{moved}{anew[0].upper()}{anew[1:]}"
    return f"{moved}If more are wanted, end all relays and run: headwater outbox add-partitions {topic} --partitions {count}. Else {anew}"


def _partitions(counts: Mapping[str, int]) -> list[Partition]:
    return [Partition(topic, number) for topic, count in sorted(counts.items()) for number in range(count)]
