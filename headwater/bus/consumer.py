"""The loop: claim what the broker assigns, receive, work off, and wait out whatever is away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Final, Self

from headwater.bus.burying import Burying
from headwater.bus.committing import ClaimsLost, Committing
from headwater.bus.context import HandlerSurroundings, PublishesEvents
from headwater.bus.dead_letters import MessageDeadLettered
from headwater.bus.divisions import DivisionWaits
from headwater.bus.foreign import ForeignRecords, ForeignValues
from headwater.bus.judging import Judging
from headwater.bus.kafka import KafkaSource
from headwater.bus.lane_marks import LaneMarks
from headwater.bus.lanes import Lanes
from headwater.bus.parked_turns import ParkedTurns
from headwater.bus.parking import Parking
from headwater.bus.partition_status import PartitionStatus, lags_of, status_of
from headwater.bus.partition_work import PartitionWork
from headwater.bus.ports import EffectStore, MessageSource, OffsetOutOfRange
from headwater.bus.retries import RetryPolicy
from headwater.bus.settling import Settling
from headwater.bus.subscriptions import Subscriptions
from headwater.bus.values import ConsumerLimits, PartitionLag, PartitionPosition
from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.errors import BrokerUnavailable, ConsumerStalled, GapDetected, HeadwaterError, StorageError, TransactionConflict, UsageError
from headwater.kafka import JSON_DECODER, KafkaSettings, OffsetRange, Partition, ValueDecoder
from headwater.messages import EventRegistry
from headwater.metrics import NO_METRICS, Metrics
from headwater.privacy import REDACTING, OpensEvents
from headwater.randomness import SYSTEM_RANDOMNESS, Randomness
from headwater.supervision import where
from headwater.telemetry import logger

_log = logger("bus")
_RECONNECT: Final = RetryPolicy(first_delay_seconds=0.2, delay_factor=2.0, delay_seconds_max=30.0)
LANES_LOOKED_AT_SECONDS: Final = 0.02
"""While lanes are busy, how long they may be ahead of the position before it follows."""
DEAF_PROBES_MAX: Final = 2
"""A probe may meet records that came a moment ago; the second in a row cannot."""


class Consumer:
    """Gives the events of a group's topics to its handlers; see the room's page for what is promised.

    Run any number with the same group, in any number of processes; each partition is worked on by one of them at a time.
    """

    def __init__(
        self,
        *,
        group: str,
        subscriptions: Subscriptions,
        source: MessageSource,
        effects: EffectStore,
        values: ValueDecoder = JSON_DECODER,
        publisher: PublishesEvents | None = None,
        registry: EventRegistry | None = None,
        personal: OpensEvents = REDACTING,
        retry_policy: RetryPolicy | None = None,
        copy_dead_letters_to: type[MessageDeadLettered] | None = None,
        limits: ConsumerLimits | None = None,
        topic_prefix: str = "",
        metrics: Metrics = NO_METRICS,
        clock: Clock = SYSTEM_CLOCK,
        randomness: Randomness = SYSTEM_RANDOMNESS,
    ) -> None:
        self._group, self._subscriptions, self._source, self._effects = group, subscriptions, source, effects
        self._values = ForeignValues.around(values, subscriptions.foreign)
        self._foreign = ForeignRecords(subscriptions.foreign)
        self._reader = source.reader(self._values)
        self._limits = limits or ConsumerLimits()
        self._topic_prefix = topic_prefix
        self._clock, self._randomness = clock, randomness
        self._registry = registry or EventRegistry(subscriptions.event_classes)
        surroundings = HandlerSurroundings(
            group=group, publisher=publisher, registry=self._registry, clock=clock, personal=personal, metrics=metrics
        )
        judging = Judging(surroundings, retry_policy or RetryPolicy(), self._limits, randomness)
        burying = Burying(subscriptions, copy_dead_letters_to)
        settling = Settling(surroundings, judging, burying)
        self._committing = Committing(effects, surroundings, judging, settling, self._limits)
        parking = Parking(effects, surroundings, judging, burying, self._limits, self._values)
        self._lanes = Lanes(effects, surroundings, judging, settling, parking, self._limits)
        self._parked_turns = ParkedTurns(effects, surroundings, subscriptions, parking, self._lanes, self._limits, self._attempt_parked)
        self._division_waits = DivisionWaits(effects, group, clock)
        self._assigned: dict[Partition, object] = {}
        """Each assignment has a token of its own, so that one that came back is told from one that stayed."""
        self._works: dict[Partition, PartitionWork] = {}
        self._lost_until: dict[Partition, float] = {}
        self._paused: set[Partition] = set()
        self._working = asyncio.Lock()
        self._is_open = self._is_idle = False
        self._troubles = self._deaf_probes = 0
        self._heard_at = 0.0
        self._worker: asyncio.Task[None] | None = None

    @classmethod
    def connect(
        cls,
        subscriptions: Subscriptions,
        effects: EffectStore,
        publisher: PublishesEvents | None,
        kafka: KafkaSettings | None,
        *,
        group: str,
        values: ValueDecoder,
        source: MessageSource | None = None,
        instance_id: str | None = None,
        registry: EventRegistry | None = None,
        personal: OpensEvents = REDACTING,
        retry_policy: RetryPolicy | None = None,
        copy_dead_letters_to: type[MessageDeadLettered] | None = None,
        limits: ConsumerLimits | None = None,
        metrics: Metrics = NO_METRICS,
    ) -> Self:
        """A consumer between this broker, or another source, and this store of effects; `run` connects it."""
        prefix = ""
        if source is None:
            assert kafka is not None, "one of them"
            prefix = kafka.topic_prefix
            source = KafkaSource(kafka, group=prefix + group, instance_id=instance_id)
        return cls(
            group=group,
            subscriptions=subscriptions,
            source=source,
            topic_prefix=prefix,
            effects=effects,
            values=values,
            publisher=publisher,
            registry=registry,
            personal=personal,
            retry_policy=retry_policy,
            copy_dead_letters_to=copy_dead_letters_to,
            limits=limits,
            metrics=metrics,
        )

    def status(self) -> tuple[PartitionStatus, ...]:
        """Every partition that the broker assigned to us, and what we do with it."""
        return tuple(status_of(partition, self._works.get(partition), self._lost_until) for partition in sorted(self._assigned))

    @property
    def is_joined(self) -> bool:
        """Whether it is a member of its group now."""
        return self._is_open

    @property
    def progressed_at(self) -> float:
        """When it last got on, in the clock's monotonic seconds; see `Watched`."""
        return self._committing.progressed_at

    def waits_in(self) -> str:
        """Where its work is now; see `Watched`."""
        return where(self._worker) if self._worker is not None else "it was not started"

    async def lags(self) -> tuple[PartitionLag, ...]:
        """How far each partition of ours is behind its end; asks the source.

        Raises:
            BrokerUnavailable: nobody answers.
        """
        return await lags_of(dict(self._works), self._source, self._clock.now())

    # -- the life of it ------------------------------------------------------------------------------------------------

    async def abandon(self) -> None:
        """Give the partitions back though a handler does not return: whoever claims them next fences what it may still do."""
        self._committing.is_stopping = True
        for work in self._works.values():
            work.is_revoked = True
        if self._worker is not None:
            self._worker.cancel()
        await self._close_source()

    async def run(self) -> None:
        """Work until cancelled; then finish the batch at hand, within `shutdown_seconds_max`, give the partitions back and end.

        Raises:
            UsageError: nobody subscribed to anything.
        """
        if not self._subscriptions:
            raise UsageError(f"the group {self._group!r} has no handlers; register one with @service.on(...)")
        self._committing.is_stopping = False
        self._lanes.start()
        worker = self._worker = asyncio.create_task(self._work(), name=f"headwater consumer {self._group}")
        try:
            await asyncio.shield(worker)
        except asyncio.CancelledError:
            await self._drain(worker)
            raise
        finally:
            worker.cancel()
            await asyncio.wait([worker])
            await self._close_source()
            _log.info("consumer_stopped", group=self._group)

    async def _drain(self, worker: asyncio.Task[None]) -> None:
        self._committing.is_stopping = True
        if self._is_idle:
            worker.cancel()
        done, _ = await asyncio.wait([worker], timeout=self._limits.shutdown_seconds_max)
        if not done:
            _log.warning("shutdown_cut_off", group=self._group, after_seconds=self._limits.shutdown_seconds_max)

    @contextmanager
    def _idle(self) -> Generator[None]:
        """Nothing is open here: stopping may interrupt at once."""
        if self._committing.is_stopping:
            raise asyncio.CancelledError
        self._is_idle = True
        try:
            yield
        finally:
            self._is_idle = False

    async def _work(self) -> None:
        try:
            await self._work_in_rounds()
        finally:
            await self._lanes.close()

    async def _work_in_rounds(self) -> None:
        while not self._committing.is_stopping:
            self._committing.progressed()
            try:
                await self._round()
            except ClaimsLost as error:
                self._lose(error)
            except BrokerUnavailable as error:
                await self._close_source()
                await self._wait_out("broker_unavailable", error)
            except ConsumerStalled as error:
                _log.error("consumer_stalled", group=self._group, error=str(error))
                await self._close_source()
            except (StorageError, TransactionConflict) as error:
                for work in self._works.values():
                    work.needs_confirmation = True
                await self._wait_out("storage_unavailable", error)
            else:
                self._troubles = 0

    async def _round(self) -> None:
        if not self._is_open:
            await self._open_source()
        await self._hear_lanes()
        await self._claim_assigned()
        await self._confirm_claims()
        for work in await self._division_waits.look(self._works.values()):
            self._lanes.take(work)
        moment = self._clock.monotonic()
        due = [message for work in self._works.values() if (message := work.due(moment)) is not None]
        for message in due:
            if not (self._committing.is_stopping or message.work.is_revoked):
                async with self._working:
                    await self._committing.try_alone(message)
        was_parked = await self._parked_turns.take(self._works.values())
        ready = [message for work in self._works.values() for message in work.ready(self._limits.batch_size_max)]
        if ready:
            async with self._working:
                await self._committing.work_off(ready)
        self._adjust_flow()
        if not (ready or due):
            # Where much waits behind parked keys, new messages come in between.
            await self._receive(0.0 if was_parked else self._limits.idle_seconds)

    async def _hear_lanes(self) -> None:
        """What went wrong in a lane ends the work on its partition, which is claimed anew, and is raised here."""
        for work, error in list(self._lanes.troubles.items()):
            await self._end_lanes(work)
            if isinstance(error, HeadwaterError) and self._works.get(work.partition) is not work:
                # It was given up before, and may be ours again under a newer claim, which this does not touch.
                continue
            if not isinstance(error, ClaimsLost):
                self._drop(work)
            raise error

    async def _end_lanes(self, work: PartitionWork) -> None:
        """Return once nothing of the partition is under way in lanes; it is worked on no more before it is claimed again."""
        with self._idle():
            await self._lanes.end(work)

    def _drop(self, work: PartitionWork) -> None:
        """Let the partition be claimed anew, if it is still assigned to us."""
        if self._works.get(work.partition) is work:
            del self._works[work.partition]
            self._source.pause(work.partition)

    async def _attempt_parked(self, work: PartitionWork, attempt: Callable[[], Awaitable[None]]) -> None:
        """Try what is parked of a partition, unless it is being given up."""
        if not (self._committing.is_stopping or work.is_revoked):
            async with self._working:
                await attempt()

    async def _wait_out(self, fact: str, error: HeadwaterError) -> None:
        self._troubles += 1
        delay = min(_RECONNECT.delay_seconds(self._troubles, self._randomness), self._limits.reconnect_seconds_max)
        _log.warning(fact, group=self._group, error=str(error), attempt=self._troubles, delay_seconds=round(delay, 3))
        with self._idle():
            await self._clock.sleep(delay)

    # -- the source ----------------------------------------------------------------------------------------------------

    async def _open_source(self) -> None:
        topics = self._subscriptions.topics_with(self._topic_prefix)
        with self._idle():
            await self._source.open(topics, self)
        self._is_open, self._heard_at, self._deaf_probes = True, self._clock.monotonic(), 0
        _log.info("consumer_started", group=self._group, topics=topics, handlers=[h.name for h in self._subscriptions])

    async def _close_source(self) -> None:
        self._is_open = False
        try:
            await self._source.close()
        finally:
            self._assigned.clear()
            for work in list(self._works.values()):
                await self._lanes.end(work)
            self._works.clear()
            self._lost_until.clear()
            self._paused.clear()

    async def _receive(self, seconds_max: float) -> None:
        moment = self._clock.monotonic()
        due = [work.failing.due_at - moment for work in self._works.values() if work.failing is not None]
        due += [due_at - moment for work in self._works.values() if work.parked and (due_at := work.parked.next_due_at()) is not None]
        if self._lanes.is_busy:
            seconds_max = min(seconds_max, LANES_LOOKED_AT_SECONDS)
        timeout = max(0.0, min([seconds_max, *due]))
        try:
            with self._idle():
                received = await self._source.receive(limit=self._limits.batch_size_max, timeout_seconds=timeout)
                received = self._foreign.translate(received)
                # Where this fails, the source is opened anew, and the records come again.
                await self._reader.prepare(record for records in received.values() for record in records)
        except OffsetOutOfRange as error:
            if (work := self._works.get(error.partition)) is not None:
                self._stop_partition(work, error)
            return
        if received:
            self._heard_at, self._deaf_probes = self._clock.monotonic(), 0
        elif self._works and self._clock.monotonic() - self._heard_at > self._limits.probe_seconds:
            await self._probe()
        for partition, records in received.items():
            if (work := self._works.get(partition)) is not None and work.stop_reason is None:
                try:
                    work.accept(records)
                except GapDetected as error:
                    self._stop_partition(work, error)
                self._lanes.take(work)

    async def _probe(self) -> None:
        """After silence: is the broker there, and is there nothing indeed?

        Raises:
            BrokerUnavailable: nobody answers.
            ConsumerStalled: records wait, and none of them comes.
        """
        flowing = [partition for partition in self._works if partition not in self._paused]
        with self._idle():
            unread = await self._source.unread(flowing or [next(iter(self._works))])
        self._heard_at = self._clock.monotonic()
        deaf = [partition for partition in flowing if unread.get(partition)]
        self._deaf_probes = self._deaf_probes + 1 if deaf else 0
        if self._deaf_probes >= DEAF_PROBES_MAX:
            raise ConsumerStalled(f"records wait in {', '.join(map(str, sorted(deaf)))}, but none was received in two probes; joining anew")

    def _adjust_flow(self) -> None:
        """Pause what waits, is stopped or lost; resume what can go on."""
        for partition, work in self._works.items():
            is_far_ahead = work.has_lanes and len(work.pending) >= self._limits.lane_records_max
            must_pause = work.failing is not None or work.stop_reason is not None or is_far_ahead or work.held_from is not None
            if must_pause and partition not in self._paused:
                self._source.pause(partition)
                self._paused.add(partition)
            elif not must_pause and partition in self._paused:
                self._source.resume(partition)
                self._paused.discard(partition)

    # -- who owns what -------------------------------------------------------------------------------------------------

    async def assigned(self, partitions: Iterable[Partition]) -> None:
        """The broker says that these are ours; the loop claims them."""
        for partition in partitions:
            self._assigned[partition] = object()
            self._lost_until.pop(partition, None)

    def committed(self) -> Mapping[Partition, int]:
        """How far the partitions that are claimed got."""
        return {partition: work.position.next_offset for partition, work in self._works.items()}

    async def revoked(self, partitions: Iterable[Partition]) -> Mapping[Partition, int]:
        """The broker takes these away: begin nothing more on them, and let the batch at hand finish."""
        works: list[PartitionWork] = []
        for partition in partitions:
            self._assigned.pop(partition, None)
            self._paused.discard(partition)
            if (work := self._works.pop(partition, None)) is not None:
                work.is_revoked = True
                works.append(work)
        try:
            async with asyncio.timeout(self._limits.revoke_seconds_max):
                async with self._working:
                    pass
                for work in works:
                    await self._lanes.end(work)
        except TimeoutError:
            _log.warning("revoked_during_batch", group=self._group, after_seconds=self._limits.revoke_seconds_max)
        return {work.partition: work.position.next_offset for work in works}

    async def _claim_assigned(self) -> None:
        moment = self._clock.monotonic()
        wanted = [p for p in self._assigned if p not in self._works and self._lost_until.get(p, moment) <= moment]
        if not wanted:
            return
        with self._idle():
            held = await self._source.offsets(wanted)
        for partition in wanted:
            if partition in held:
                await self._claim(partition, held[partition])
        claimed = [p for p in wanted if p in self._works]
        _log.info("partitions_claimed", group=self._group, partitions=[str(p) for p in claimed])

    async def _claim(self, partition: Partition, held: OffsetRange) -> None:
        token = self._assigned.get(partition)
        if token is None:
            return
        position = await self._effects.claim(self._group, partition)
        if self._assigned.get(partition) is not token:
            return
        work = PartitionWork(position, self._subscriptions.routes_in(partition.topic, self._topic_prefix), self._reader, self._registry)
        marks = await self._effects.claim_lanes(self._group, position, self._subscriptions.lane_counts)
        if marks is None:
            raise ClaimsLost(frozenset({partition}))
        work.lane_marks = LaneMarks(marks)
        await self._parked_turns.load(work)
        await self._division_waits.load(work)
        if self._assigned.get(partition) is not token:
            return
        self._works[partition] = work
        self._paused.discard(partition)
        self._lost_until.pop(partition, None)
        try:
            self._source.start_at(partition, work.start(held))
        except GapDetected as error:
            self._stop_partition(work, error)

    async def _confirm_claims(self) -> None:
        """After PostgreSQL was away: see whether the last commit took effect, and whether the rows are still ours."""
        for partition, work in list(self._works.items()):
            if not work.needs_confirmation:
                continue
            if work.has_lanes:
                # What its lanes committed, and what is parked by now, is read again with the next claim.
                await self._end_lanes(work)
                self._drop(work)
                continue
            row = await self._effects.confirm(self._group, work.position)
            if row is None:
                raise ClaimsLost(frozenset({partition}))
            if row.next_offset < work.position.next_offset:
                self._rewind(work, row)
                continue
            work.commit(row)
            await self._parked_turns.load(work)
            work.needs_confirmation = False

    def _rewind(self, work: PartitionWork, row: PartitionPosition) -> None:
        """The database forgot commits of ours (an asynchronous failover), and their effects with them: what they covered is to be received again."""
        self._works.pop(work.partition).is_revoked = True
        _log.warning(
            "position_went_back",
            group=self._group,
            partition=str(work.partition),
            next_offset=row.next_offset,
            committed_before=work.position.next_offset,
        )

    def _lose(self, error: ClaimsLost) -> None:
        for partition in error.partitions:
            if (work := self._works.pop(partition, None)) is not None:
                work.is_revoked = True
            if partition in self._assigned:
                self._source.pause(partition)
                # The broker may not have noticed yet that we were replaced; claiming at once would drive out the rightful owner.
                self._lost_until[partition] = self._clock.monotonic() + self._limits.reclaim_seconds
        _log.warning("partitions_lost", group=self._group, partitions=[str(p) for p in sorted(error.partitions)], error=str(error))

    def _stop_partition(self, work: PartitionWork, error: HeadwaterError) -> None:
        work.stop_reason = str(error)
        self._source.pause(work.partition)
        self._paused.add(work.partition)
        _log.error("partition_stopped", group=self._group, topic=work.partition.topic, partition=work.partition.number, error=str(error))
