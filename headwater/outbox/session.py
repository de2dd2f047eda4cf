"""One fenced life of the relay: topics, fence, tails, and then the pump."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from headwater.errors import RelayStopped
from headwater.eventstore import Checkpoint, LogIdentity
from headwater.kafka import Partition, event_topic
from headwater.outbox.lanes import Lane, Ledger
from headwater.outbox.options import POLL_SECONDS_MIN
from headwater.outbox.ports import Lease, PartitionPosition, RelayProgress
from headwater.outbox.pump import Pump, RelayParts
from headwater.outbox.tails import Tail, find_tails
from headwater.telemetry import logger

_log = logger("outbox")


class RelaySession:
    """From the lease to the first reason to start over."""

    def __init__(self, parts: RelayParts, lease: Lease) -> None:
        self._parts, self._lease = parts, lease

    async def run(self, stopping: asyncio.Event, extra_topics: set[str]) -> set[str]:
        """Fence, look, and relay; return the topics that turned up and must be fenced, too, in the next session.

        Raises:
            LogDiverged: the log lost events that are in Kafka already; consumers have seen what never was.
            RelayStopped: a topic has another number of partitions than it had.
            RelayFenced, BrokerUnavailable, RecordRefused, StorageUnavailable: start over.
        """
        parts = self._parts
        started_at = parts.clock.monotonic()
        identity = await parts.source.identity()
        progress = await parts.positions.load(self._lease.shard)
        await parts.source.verify_checkpoint(progress.relayed_through)
        topics = set(progress.topics) | extra_topics or await self._first_topics(stopping)
        if not topics:
            return set()
        partitions = await self._partitions(topics, progress)
        writer = await parts.broker.fence(transactional_id(identity, self._lease.shard), partitions)
        try:
            _log.info("relay_fenced", shard=self._lease.shard, term=self._lease.term, partition_count=len(partitions))
            tails = await self._tails(identity, progress, partitions)
            start = await self._begin(progress, tails)
            lanes = {partition: Lane(partition, tail.position) for partition, tail in tails.items()}
            for lane in lanes.values():
                parts.stops.prepare(lane)
            pump = Pump(parts, self._lease, identity, writer, lanes, Ledger(start))
            _log.info(
                "relay_started", shard=self._lease.shard, term=self._lease.term, log_id=str(identity.log_id), after=start.global_position
            )
            await pump.run(stopping, min(started_at + parts.options.fence_age_seconds_max, parts.stops.retry_at()))
            return pump.new_topics
        finally:
            await writer.abandon()

    async def _first_topics(self, stopping: asyncio.Event) -> set[str]:
        """Wait for the first events of a log that was never relayed."""
        pause = POLL_SECONDS_MIN
        while not stopping.is_set():
            found = await self._parts.source.read_log(after=0)
            if found.events:
                return {event_topic(event, self._parts.options.topic_prefix) for event in found.events}
            await self._parts.doorbell.wait(pause)
            pause = min(pause * 2, self._parts.options.poll_seconds_max)
        return set()

    async def _partitions(self, topics: set[str], progress: RelayProgress) -> list[Partition]:
        counts = await self._parts.broker.ensure_topics(topics)
        for topic, count in counts.items():
            if (was := progress.topics.get(topic, count)) != count:
                raise RelayStopped(
                    f"the topic {topic!r} had {was} partitions when it was first relayed to and has {count} now: streams would change their "
                    "partition and lose their order. Make the topic anew with the first number; it is filled again from the log"
                )
        if new := {topic: count for topic, count in counts.items() if topic not in progress.topics}:
            await self._parts.positions.record_topics(new)
        return [Partition(topic, number) for topic, count in sorted(counts.items()) for number in range(count)]

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
            return progress.relayed_through
        start = min([progress.relayed_through, *(tail.checkpoint for tail in rewound.values())], key=lambda c: (c.epoch, c.global_position))
        # Saved before anything is sent: a crash in the middle must not leave a checkpoint above what is missing.
        moved = {partition: PartitionPosition(tail.position, tail.offset) for partition, tail in rewound.items()}
        await self._parts.positions.save(self._lease, start, moved)
        return start


def transactional_id(identity: LogIdentity, shard: str) -> str:
    """The id under which Kafka fences the relays of a shard of this log."""
    return f"headwater-relay-{identity.log_id}-{shard}"
