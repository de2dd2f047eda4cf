"""Giving a topic more partitions. Streams change their partition by it, so order holds only where nothing is on its way: see decision 0026.

Who is authoritative: Kafka for how many partitions there are, the rows of the relay for how events are divided among them; while the two differ,
relays stand still. The steps: every shard's lease is taken → every relay of before is fenced off the topic → what it holds is read → whoever reads
it has handled all of that → Kafka makes the partitions → the relays of before are fenced off those, too, and nothing came meanwhile → the new
number is recorded, together with the position up to which the old one counts, if the leases are still ours. Cut off anywhere, it is run again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Final, Protocol
from uuid import UUID

from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.coordination import LEASE_SECONDS, Lease, Leases, item_lease_name, member_name
from headwater.errors import DeliveryError, HeadwaterError, RelayFenced, UsageError
from headwater.eventstore import LogIdentity
from headwater.kafka import Partition, partition_of, topic_of
from headwater.messages import LOG_START, LogPosition, category_of
from headwater.outbox.ports import Division, PartitionPosition, RelayBroker, RelayPositions, RelayProgress, RelaySource
from headwater.outbox.shards import RELAY_GROUP, SHARDS, shard_of, transactional_id
from headwater.outbox.tails import Tail, find_tails
from headwater.randomness import SYSTEM_RANDOMNESS, Randomness
from headwater.telemetry import logger

RENEWALS: Final = 3
"""How often the leases are renewed in their time."""
_SLICE: Final = 1_000
_log = logger("outbox")


class TopicNotDrained(DeliveryError):
    """A topic cannot be given more partitions yet; nothing was changed. Whoever runs the command does what the reasons say, and repeats it."""

    retryable = True

    def __init__(self, topic: str, reasons: Sequence[str]) -> None:
        listed = "; ".join(reasons)
        super().__init__(f"the topic {topic!r} was not given more partitions, nothing was changed: {listed}")
        self.topic, self.reasons = topic, tuple(reasons)


class DividesTopics(RelayBroker, Protocol):
    """A relay's broker that can give topics more partitions."""

    async def count_partitions(self, topic: str) -> int | None:
        """How many the topic has; None where there is none."""
        ...

    async def add_partitions(self, topic: str, count: int) -> None:
        """Give it as many in all; returns once every one has a leader."""
        ...


@dataclass(frozen=True, slots=True)
class TopicContent:
    """What a topic holds of a log, while nobody relays to it."""

    topic: str
    log_id: UUID
    tails: Mapping[Partition, Tail]
    """The last record of each partition that has any."""


@dataclass(frozen=True, slots=True)
class AddedPartitions:
    """What was done."""

    topic: str
    was: int
    partition_count: int
    through: LogPosition = LOG_START
    """The last position that is divided among as many as there were."""


class PartitionAdding:
    """Gives one topic more partitions."""

    def __init__(
        self,
        source: RelaySource,
        broker: DividesTopics,
        positions: RelayPositions,
        *,
        topic: str,
        partition_count: int,
        topic_prefix: str = "",
        lease_seconds: float = LEASE_SECONDS,
        clock: Clock = SYSTEM_CLOCK,
        randomness: Randomness = SYSTEM_RANDOMNESS,
    ) -> None:
        """Put it together; nothing happens before `run`.

        Args:
            topic: its whole name in Kafka.
            partition_count: as many as it is to have in all.
        """
        self._source, self._broker, self._positions = source, broker, positions
        self._topic, self._count, self._prefix = topic, partition_count, topic_prefix
        self._lease_seconds, self._clock, self._randomness = lease_seconds, clock, randomness

    async def check(self) -> AddedPartitions:
        """What there is to do, looking only; nothing where both numbers of the answer are the same.

        Raises:
            UsageError: the topic is unknown, or has more partitions already.
        """
        known = (await self._positions.load(SHARDS[0])).topics
        was, existing = known.get(self._topic), await self._broker.count_partitions(self._topic)
        if was is None or existing is None:
            where = "was never relayed to by this log" if was is None else "is not in Kafka"
            raise UsageError(f"the topic {self._topic!r} {where}; topics of this log: {', '.join(sorted(known)) or 'none'}")
        if self._count < max(existing, was):
            raise UsageError(
                f"the topic {self._topic!r} has {existing} partitions (recorded: {was}), and partitions cannot be removed; ask for more than that"
            )
        return AddedPartitions(self._topic, was, max(was, self._count))

    async def run(self, require_handled: Callable[[TopicContent], Awaitable[None]]) -> AddedPartitions:
        """Do it, or change nothing.

        Args:
            require_handled: raises unless everybody has handled this; the leases are held for as long as it takes.
        Raises:
            UsageError: see `check`.
            TopicNotDrained: relays run, or something has not been relayed.
            RelayFenced: a relay started meanwhile; partitions may have been made, and nothing was recorded. Repeat it.
            BrokerUnavailable, StorageUnavailable: the same.
        """
        planned = await self.check()
        if planned.was == planned.partition_count:
            return planned
        async with self._holding_all_shards() as held:
            planned = await self.check()
            identity = await self._source.identity()
            progress = await self._progress()
            old = self._partitions(planned.was)
            await self._fence(identity, old)
            tails = await self._tails(identity, progress, old)
            await self._require_relayed(identity, progress, tails, planned.was)
            content = TopicContent(self._topic, identity.log_id, {p: tail for p, tail in tails.items() if tail.position > LOG_START})
            await require_handled(content)
            held.require()
            await self._broker.add_partitions(self._topic, self._count)
            _log.info("partitions_added", topic=self._topic, was=planned.was, partition_count=self._count)
            await self._fence(identity, self._partitions(self._count))
            await self._require_unchanged(identity, progress, tails)
            held.require()
            through = max((tail.position for tail in tails.values()), default=LOG_START)
            before = Division(through, planned.was, {partition.number: tail.position for partition, tail in content.tails.items()})
            await self._positions.divide_topic(held.leases, self._topic, self._count, before)
            _log.info("topic_divided", topic=self._topic, was=planned.was, partition_count=self._count, through=str(through))
        return replace(planned, through=through)

    # -- nobody else relays -------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _holding_all_shards(self) -> AsyncGenerator[HeldShards]:
        held = HeldShards(self._positions.leases, self._topic, member_name(self._randomness), self._lease_seconds, self._clock)
        try:
            await held.acquire()
            renewing = asyncio.create_task(held.keep(), name="headwater add-partitions leases")
            try:
                yield held
            finally:
                renewing.cancel()
                await asyncio.wait([renewing])
        finally:
            await held.release()

    async def _fence(self, identity: LogIdentity, partitions: Sequence[Partition]) -> None:
        """Refuse whatever an earlier relay may still send to these (rule 13)."""
        for shard in SHARDS:
            if mine := [partition for partition in partitions if shard_of(partition) == shard]:
                await (await self._broker.fence(transactional_id(identity, shard), mine)).abandon()

    # -- what is there ------------------------------------------------------------------------------------------------

    async def _progress(self) -> Mapping[str, RelayProgress]:
        progress = {shard: await self._positions.load(shard) for shard in SHARDS}
        for shard, found in progress.items():
            await self._source.verify_checkpoint(found.relayed_through)
            if found.predecessor is not None:
                raise TopicNotDrained(self._topic, [f"shard {shard} was not relayed yet by this version: start the service once"])
        return progress

    async def _tails(
        self, identity: LogIdentity, progress: Mapping[str, RelayProgress], partitions: Sequence[Partition]
    ) -> Mapping[Partition, Tail]:
        async with self._broker.open_reader() as reader:
            tails = await find_tails(reader, identity.log_id, progress[SHARDS[0]].positions, partitions)
        if lost := sorted(str(partition) for partition, tail in tails.items() if tail.is_rewound):
            raise TopicNotDrained(self._topic, [f"Kafka lost records of {', '.join(lost)}: start the service, which fills them again"])
        return tails

    async def _require_relayed(
        self, identity: LogIdentity, progress: Mapping[str, RelayProgress], tails: Mapping[Partition, Tail], was: int
    ) -> None:
        """Everything up to the last position in the topic must be in its partition; what comes after that may wait, and goes the new way."""
        through = max((tail.position for tail in tails.values()), default=LOG_START)
        in_kafka = {partition: max(tail.position, _checkpoint(progress[shard_of(partition)])) for partition, tail in tails.items()}
        after = min(found.relayed_through.global_position for found in progress.values())
        missing = 0
        while after < through.global_position and (events := (await self._source.read_log(after=after, limit=_SLICE)).events):
            after = events[-1].global_position
            for event in events:
                if topic_of(category_of(event.stream_name), self._prefix) == self._topic:
                    position = identity.locate(event.global_position)
                    missing += in_kafka[Partition(self._topic, partition_of(event.stream_name.encode(), was))] < position <= through
        if missing:
            advice = "start the service, wait until `headwater outbox status` shows none waiting, then end it and repeat the command"
            raise TopicNotDrained(self._topic, [f"{missing:,} of its events are not relayed yet: {advice}"])

    async def _require_unchanged(
        self, identity: LogIdentity, progress: Mapping[str, RelayProgress], tails: Mapping[Partition, Tail]
    ) -> None:
        """A relay that was frozen before it had its leases, and thawed after our first fence, may have written; our second one ended that."""
        seen = {**progress[SHARDS[0]].positions, **{p: PartitionPosition(tail.position, tail.offset) for p, tail in tails.items()}}
        async with self._broker.open_reader() as reader:
            now = await find_tails(reader, identity.log_id, seen, self._partitions(self._count))
        if changed := sorted(str(p) for p, tail in now.items() if tail.position != (tails[p].position if p in tails else LOG_START)):
            raise RelayFenced(
                f"a relay wrote to {', '.join(changed)} meanwhile; nothing was recorded. End all relays of this log, and repeat the command"
            )

    def _partitions(self, count: int) -> list[Partition]:
        return [Partition(self._topic, number) for number in range(count)]


def _checkpoint(progress: RelayProgress) -> LogPosition:
    return LogPosition(progress.relayed_through.epoch, progress.relayed_through.global_position)


class HeldShards:
    """The leases of all shards, in one hand."""

    def __init__(self, leases: Leases, topic: str, holder: str, seconds: float, clock: Clock) -> None:
        self._store, self._topic, self._holder, self._seconds, self._clock = leases, topic, holder, seconds, clock
        self.leases: list[Lease] = []
        self._valid_until = clock.monotonic()

    async def acquire(self) -> None:
        """Take all.

        Raises:
            TopicNotDrained: somebody relays.
        """
        known = {facts.name: facts for facts in await self._store.list(f"{RELAY_GROUP}/")}
        holders: dict[str, list[str]] = {}
        self._valid_until = self._clock.monotonic() + self._seconds
        for shard in SHARDS:
            name = item_lease_name(RELAY_GROUP, shard)
            lease = await self._store.acquire(name, self._holder, self._seconds)
            if lease is None:
                facts = known.get(name)
                holders.setdefault((facts.holder if facts else None) or "somebody", []).append(shard)
            else:
                self.leases.append(lease)
        if holders:
            listed = ", ".join(f"{holder} (shards {', '.join(shards)})" for holder, shards in holders.items())
            advice = f"end every process that runs its service, then repeat the command; what a dead one held is free within {self._seconds:.0f} s"
            raise TopicNotDrained(self._topic, [f"this log is relayed now, by {listed}: {advice}"])

    async def keep(self) -> None:
        """Renew them until cancelled, or until one is another's."""
        while True:
            await self._clock.sleep(self._seconds / RENEWALS)
            asked_at = self._clock.monotonic()
            with suppress(HeadwaterError):
                if len(await self._store.renew(self.leases, self._seconds)) < len(self.leases):
                    return
                self._valid_until = asked_at + self._seconds

    def require(self) -> None:
        """Make sure that they are still ours.

        Raises:
            RelayFenced: they may be another's.
        """
        if self._clock.monotonic() >= self._valid_until:
            raise RelayFenced(
                "the leases of the shards ran out meanwhile (PostgreSQL away, or this process was stopped); nothing was recorded. Repeat the command"
            )

    async def release(self) -> None:
        """Let others have them at once."""
        for lease in self.leases:
            with suppress(HeadwaterError):
                await self._store.release(lease)
