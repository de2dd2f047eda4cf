"""The relay: takes the lease, runs sessions under it, and starts over after every failure."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Final
from uuid import UUID, uuid5

from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.errors import HeadwaterError, LogDiverged, RecordRefused, RelayFenced, RelayStopped
from headwater.kafka import JSON_ENCODER, ValueEncoder
from headwater.metrics import NO_METRICS, RELAY_FAILURES, Metrics
from headwater.outbox.doorbell import Doorbell
from headwater.outbox.lanes import Stop, StopList
from headwater.outbox.options import (
    BACK_OFF_SECONDS_MAX,
    BACK_OFF_SECONDS_MIN,
    LEASE_POLL_SECONDS,
    LEASE_RENEWALS,
    RELEASE_SECONDS_MAX,
    RelayOptions,
)
from headwater.outbox.ports import Lease, RelayBroker, RelayPositions, RelaySource
from headwater.outbox.pump import RelayParts
from headwater.outbox.session import RelaySession
from headwater.randomness import SYSTEM_RANDOMNESS, Randomness
from headwater.telemetry import logger

WHOLE_LOG: Final = "0"
"""The one shard there is; sharing the work by partition is issue 6."""
_HOLDERS: Final = UUID("0199a5f1-02b6-7a19-9f60-5d7c1e8b4a22")
"""The namespace of holders of leases that have a name."""
_log = logger("outbox")


@dataclass(frozen=True, slots=True)
class RelayStatus:
    """How a relay is."""

    state: str
    """`new`, `waiting` (another holds the lease), `relaying`, `failed` (tried again soon), `stopped` (alarm) or `ended`."""
    term: int | None = None
    last_error: str | None = None
    stopped_partitions: tuple[Stop, ...] = ()


class Relay:
    """Moves the log into Kafka: each event once, in order per partition, whatever crashes."""

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
                until its own lease runs out.
        """
        self._options = options or RelayOptions()
        self._doorbell = Doorbell(clock)
        self._stops = StopList(clock, self._options.stop_retry_seconds)
        self._parts = RelayParts(
            source, broker, positions, clock, self._doorbell, self._stops, self._options, event_source, values, metrics
        )
        self._metrics = metrics
        self._clock, self._randomness = clock, randomness
        self._holder = randomness.uuid7() if instance_id is None else uuid5(_HOLDERS, instance_id)
        self._stopping = asyncio.Event()
        self._state = "new"
        self._term: int | None = None
        self._last_error: str | None = None
        self._failed_at = clock.monotonic()
        self._extra_topics: set[str] = set()
        self._back_off_seconds = BACK_OFF_SECONDS_MIN

    def wake(self) -> None:
        """There is something new in the log; many calls count as one."""
        self._doorbell.ring()

    def status(self) -> RelayStatus:
        """How it is now."""
        return RelayStatus(self._state, self._term, self._last_error, tuple(self._stops.stops.values()))

    async def run(self) -> None:
        """Relay until cancelled; failures are told as facts and tried again, for ever.

        Cancelling lets what is on its way arrive, saves how far it got and gives the lease back, all within `drain_seconds_max`; then
        everything left is dropped, which the next relay finds out for itself.
        """
        self._stopping.clear()
        worker = asyncio.create_task(self._work(), name="headwater-relay")
        try:
            await asyncio.shield(worker)
        finally:
            self._stopping.set()
            self._doorbell.ring()
            try:
                await asyncio.wait({worker}, timeout=self._options.drain_seconds_max)
            finally:
                # Not done in time, or cancelled again: drop everything.
                worker.cancel()
                await asyncio.gather(worker, return_exceptions=True)
            self._state, self._term = "ended", None

    async def _work(self) -> None:
        while not self._stopping.is_set():
            try:
                asked_at = self._clock.monotonic()
                lease = await self._parts.positions.acquire(WHOLE_LOG, self._holder, self._options.lease_seconds)
                if lease is None:
                    self._state = "waiting"
                    await self._pause(LEASE_POLL_SECONDS * self._randomness.uniform(0.5, 1.0))
                    continue
                await self._hold(lease, asked_at + self._options.lease_seconds)
            except HeadwaterError as error:
                await self._failed(error)
            except Exception as error:  # noqa: BLE001 - a relay that ends for a bug would be a silent stop; it tells and starts over
                await self._failed(error)

    async def _hold(self, lease: Lease, valid_until: float) -> None:
        """Relay for as long as the lease lasts; whichever of both ends first ends the other."""
        self._state, self._term = "relaying", lease.term
        tasks = (asyncio.create_task(self._sessions(lease)), asyncio.create_task(self._keep(lease, valid_until)))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._term = None
            with contextlib.suppress(HeadwaterError, TimeoutError):
                async with asyncio.timeout(RELEASE_SECONDS_MAX):
                    await self._parts.positions.release(lease)

    async def _sessions(self, lease: Lease) -> None:
        while not self._stopping.is_set():
            self._extra_topics |= await RelaySession(self._parts, lease).run(self._stopping, self._extra_topics)

    async def _keep(self, lease: Lease, valid_until: float) -> None:
        """Renew the lease in time, or raise as soon as it may be another's: also when this process was frozen meanwhile."""
        seconds = self._options.lease_seconds
        while True:
            await self._clock.sleep(min(seconds / LEASE_RENEWALS, max(0.0, valid_until - self._clock.monotonic())))
            asked_at = self._clock.monotonic()
            if asked_at >= valid_until:
                raise RelayFenced(f"the lease of term {lease.term} ran out before it could be renewed")
            try:
                async with asyncio.timeout(valid_until - asked_at):
                    is_ours = await self._parts.positions.renew(lease, seconds)
            except TimeoutError:
                raise RelayFenced(f"the lease of term {lease.term} ran out while PostgreSQL did not answer") from None
            if not is_ours:
                raise RelayFenced(f"another relay took the lease of term {lease.term}")
            valid_until = asked_at + seconds

    async def _failed(self, error: Exception) -> None:
        """Tell, wait, and let the caller start over."""
        self._last_error = f"{type(error).__name__}: {error}"
        self._metrics.add(RELAY_FAILURES, 1, type(error).__name__)
        if isinstance(error, RelayFenced):
            # Perhaps by one of our own name, started when this process was taken for dead: from now on we wait for our turn like any other.
            self._holder = self._randomness.uuid7()
        is_alarm = isinstance(error, (LogDiverged, RelayStopped)) or not isinstance(error, HeadwaterError)
        self._state = "stopped" if is_alarm else "failed"
        now = self._clock.monotonic()
        if isinstance(error, RecordRefused) or now - self._failed_at > 2 * BACK_OFF_SECONDS_MAX:
            # The stop list deals with what was refused, and other partitions need not wait; after a good while the count begins anew.
            self._back_off_seconds = BACK_OFF_SECONDS_MIN
        self._failed_at = now
        seconds = self._randomness.uniform(BACK_OFF_SECONDS_MIN, max(BACK_OFF_SECONDS_MIN, self._back_off_seconds))
        self._back_off_seconds = min(self._back_off_seconds * 2, BACK_OFF_SECONDS_MAX)
        facts = {"error": type(error).__name__, "reason": str(error), "retry_in_seconds": round(seconds, 3)}
        if is_alarm:
            _log.error("relay_stopped", **facts, exc_info=not isinstance(error, HeadwaterError))
        else:
            _log.warning("relay_interrupted", **facts)
        await self._pause(seconds)

    async def _pause(self, seconds: float) -> None:
        """Wait, but not longer than until told to stop."""
        until = self._clock.monotonic() + seconds
        while not self._stopping.is_set() and (left := until - self._clock.monotonic()) > 0:
            await self._doorbell.wait(left)
