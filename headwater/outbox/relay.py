"""The relay: shares the shards with its like, runs sessions on those it holds, and starts over after every failure."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final

from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.coordination import Holding, LeaseShare
from headwater.errors import HeadwaterError, LogDiverged, RecordRefused, RelayFenced, RelayStopped
from headwater.eventstore import Checkpoint
from headwater.kafka import JSON_ENCODER, ValueEncoder
from headwater.metrics import NO_METRICS, RELAY_FAILURES, Metrics
from headwater.outbox.back_off import BackOff
from headwater.outbox.doorbell import Doorbell
from headwater.outbox.feed import FeedPool
from headwater.outbox.lanes import Stop, StopList
from headwater.outbox.options import RelayOptions
from headwater.outbox.ports import RelayBroker, RelayPositions, RelaySource
from headwater.outbox.pump import Pump, RelayParts
from headwater.outbox.session import ShardOpening
from headwater.outbox.shards import DEALING_ORDER, RELAY_GROUP
from headwater.outbox.topics import TopicDesk
from headwater.randomness import SYSTEM_RANDOMNESS, Randomness
from headwater.telemetry import logger

_STATES: Final = ("stopped", "failed", "relaying")
"""Of the states of its shards a relay has the one that stands first here."""
_log = logger("outbox")


@dataclass(frozen=True, slots=True)
class ShardStatus:
    """How a shard is that this relay holds."""

    shard: str
    state: str
    """`relaying`, `failed` (tried again soon) or `stopped` (alarm)."""
    term: int
    relayed_through: Checkpoint | None
    """Every event of the shard up to here is acknowledged; None before the shard is fenced."""
    lag_events: int | None
    """Events of the log after that, at most: aborted appends count until the end of the log is reached. None before the log is read for it."""


@dataclass(frozen=True, slots=True)
class RelayStatus:
    """How a relay is."""

    state: str
    """`new`, `waiting` (others hold all shards), `relaying`, `failed` (tried again soon), `stopped` (alarm) or `ended`."""
    shards: tuple[ShardStatus, ...] = ()
    """Those it holds; others are with other relays."""
    last_error: str | None = None
    stopped_partitions: tuple[Stop, ...] = ()
    relayed_count: int = 0
    """Events that Kafka acknowledged to this relay since it was made; how fast it grows is the rate."""
    horizon: int | None = None
    """How far the log could be read when this relay last looked; None while it does not look."""

    @property
    def lag_events(self) -> int | None:
        """Of the shard that is furthest behind; None when none of this relay's is known."""
        return max((shard.lag_events for shard in self.shards if shard.lag_events is not None), default=None)


@dataclass(slots=True)
class _Shard:
    """What is known of a shard while it is held."""

    holding: Holding
    stops: StopList
    state: str = "relaying"
    pump: Pump | None = None

    def status(self, feeds: FeedPool) -> ShardStatus:
        relayed_through, lag = (None, None) if self.pump is None else (self.pump.relayed_through, feeds.lag(self.pump))
        return ShardStatus(self.holding.item, self.state, self.holding.lease.term, relayed_through, lag)


@dataclass(slots=True)
class _Memory:
    """What outlives sessions."""

    shards: dict[str, _Shard] = field(default_factory=dict[str, _Shard])
    topics: set[str] = field(default_factory=set[str])
    """That turned up in the log, and may be new to the sessions."""
    state: str = "new"
    last_error: str | None = None
    relayed_count: int = 0


class Relay:
    """Moves the log into Kafka, alone or together with others: each event once, in order per partition, whatever crashes."""

    def __init__(
        self,
        source: RelaySource,
        broker: RelayBroker,
        positions: RelayPositions,
        *,
        event_source: str,
        values: ValueEncoder = JSON_ENCODER,
        instance_id: str | None = None,
        options: RelayOptions | None = None,
        metrics: Metrics = NO_METRICS,
        clock: Clock = SYSTEM_CLOCK,
        randomness: Randomness = SYSTEM_RANDOMNESS,
    ) -> None:
        """Put it together; nothing happens before `run`.

        Args:
            source: the log; any `EventStore`.
            event_source: the CloudEvents source, like `/services/orders`.
            values: what makes the records' values: JSON, or `headwater.schemas.AvroEncoder`.
            instance_id: a name that this process keeps over restarts, unique among those of the log: killed and started again, it need not wait
                until its own leases run out.
        """
        self._options = options or RelayOptions()
        self._doorbell = Doorbell(clock)
        self._parts = RelayParts(source, broker, positions, clock, randomness, self._doorbell, self._options, event_source, values, metrics)
        self._clock, self._metrics = clock, metrics
        self._topics, self._feeds = TopicDesk(broker), FeedPool(self._parts)
        self._back_off = BackOff(clock, randomness)
        self._one_by_one = asyncio.Lock()
        self._memory = _Memory()
        self._share = LeaseShare(
            positions.leases,
            self._relay_shard,
            group=RELAY_GROUP,
            items=DEALING_ORDER,
            member=instance_id,
            lease_seconds=self._options.lease_seconds,
            drain_seconds_max=self._options.drain_seconds_max,
            clock=clock,
            randomness=randomness,
        )

    def wake(self) -> None:
        """There is something new in the log; many calls count as one."""
        self._doorbell.ring()

    def status(self) -> RelayStatus:
        """How it is now: for health checks and metrics. Asks nobody, so it is cheap; how far *others* got is in `read_outbox_status`."""
        memory = self._memory
        shards = sorted(memory.shards.values(), key=lambda shard: shard.holding.item)
        state = next((state for state in _STATES for shard in shards if shard.state == state), memory.state)
        return RelayStatus(
            state,
            tuple(shard.status(self._feeds) for shard in shards),
            memory.last_error,
            tuple(stop for shard in shards for stop in shard.stops.stops.values()),
            memory.relayed_count + sum(shard.pump.relayed_count for shard in shards if shard.pump is not None),
            self._feeds.horizon,
        )

    async def run(self) -> None:
        """Relay until cancelled; failures are told as facts and tried again, for ever.

        Cancelling lets what is on its way arrive, saves how far it got and gives the leases back, all within `drain_seconds_max`; then
        everything left is dropped, which the next relay finds out for itself.
        """
        self._memory.state = "waiting"
        try:
            await self._share.run()
        finally:
            self._memory.state = "ended"
            await self._feeds.close()

    async def _relay_shard(self, holding: Holding) -> None:
        """Session after session for as long as the shard is held."""
        shard = self._memory.shards[holding.item] = _Shard(holding, StopList(self._clock, self._options.stop_retry_seconds))
        try:
            while not holding.recalled.is_set():
                try:
                    await self._session(shard)
                    shard.state = "relaying"
                except Exception as error:  # noqa: BLE001 - a relay that ends for a bug would be a silent stop; it tells and starts over
                    await self._failed(shard, error)
        finally:
            del self._memory.shards[holding.item]

    async def _session(self, shard: _Shard) -> None:
        started_at = self._clock.monotonic()
        opening = ShardOpening(self._parts, self._topics, shard.holding, shard.stops, one_by_one=self._one_by_one)
        async with opening.opened(self._memory.topics) as pump:
            shard.pump, shard.state = pump, "relaying"
            try:
                await pump.run(self._feeds, started_at + self._options.fence_age_seconds_max)
            finally:
                shard.pump = None
                self._memory.relayed_count += pump.relayed_count
                self._memory.topics |= pump.new_topics

    async def _failed(self, shard: _Shard, error: Exception) -> None:
        """Tell, wait, and let the caller start over."""
        is_alarm = isinstance(error, (LogDiverged, RelayStopped)) or not isinstance(error, HeadwaterError)
        shard.state = "stopped" if is_alarm else "failed"
        self._memory.last_error = reason = f"{type(error).__name__}: {error}"
        self._metrics.add(RELAY_FAILURES, 1, type(error).__name__)
        if isinstance(error, RelayFenced):
            self._share.look_now()
        # The stop list deals with what was refused, and other partitions need not wait.
        is_new, seconds = self._back_off.after(reason, at_once=isinstance(error, RecordRefused))
        if is_new:
            facts = {
                "shard": shard.holding.item,
                "error": type(error).__name__,
                "reason": str(error),
                "retry_in_seconds": round(seconds, 3),
            }
            if is_alarm:
                _log.error("relay_stopped", **facts, exc_info=None if isinstance(error, HeadwaterError) else error)
            else:
                _log.warning("relay_interrupted", **facts)
        await shard.holding.pause(seconds)
