"""The clockwork: does what is due on the database's clock, beside any number of other processes that do the same.

Messages for later, recurring schedules and sagas' deadlines each are due work; one clockwork runs them side by side, so that a slow one keeps no
other waiting. It sleeps until the next thing is due, and no longer than `IDLE_SECONDS_MAX`, which it comes to in growing steps: a process that has
nothing to do asks seldom. Whoever plans something rings (`wake`). A ring before its transaction was committed finds nothing, so the steps begin anew
with each ring, and what was planned is seen soon all the same.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from headwater.bus.ports import EffectsRefused
from headwater.bus.retries import RetryPolicy
from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.errors import HeadwaterError, StorageError
from headwater.eventstore import Doorbell
from headwater.metrics import DUE_LATE_SECONDS, NO_METRICS, Metrics
from headwater.randomness import SYSTEM_RANDOMNESS, Randomness
from headwater.telemetry import logger

POLL_SECONDS_MIN: Final = 0.01
"""The shortest pause, when something is due that somebody else works on."""
BUSY_SECONDS_MAX: Final = 0.5
"""The longest pause while that is so."""
RUNG_SECONDS_MIN: Final = 0.1
"""Rings are answered no more often than this: every append to the log rings."""
IDLE_SECONDS_MIN: Final = 0.5
"""The first pause after a ring that found nothing; each is twice the one before."""
IDLE_SECONDS_MAX: Final = 5.0
"""The longest; what somebody planned whose ring was lost is late by so much at most."""
_AGAIN: Final = RetryPolicy(first_delay_seconds=0.1, delay_factor=2.0, delay_seconds_max=5.0)

_log = logger("bus")


class DueWork(Protocol):
    """Something that comes due on the database's clock. Whoever does it makes sure that it is done once."""

    @property
    def name(self) -> str:
        """What metrics call it."""
        ...

    async def do_next(self) -> bool:
        """Do something that is due; False when there is nothing that nobody else works on."""
        ...

    async def seconds_to_next(self) -> float | None:
        """How long until the next is due, zero or less when it is; None when nothing is planned."""
        ...


class Clockwork:
    """Runs due work until cancelled; waits out a database that is away."""

    def __init__(
        self,
        *works: DueWork,
        poll_seconds_max: float = IDLE_SECONDS_MAX,
        clock: Clock = SYSTEM_CLOCK,
        randomness: Randomness = SYSTEM_RANDOMNESS,
        metrics: Metrics = NO_METRICS,
    ) -> None:
        self._wheels = [_Wheel(work, poll_seconds_max, clock, randomness, metrics) for work in works]

    def wake(self) -> None:
        """Something may have been planned that is due sooner."""
        for wheel in self._wheels:
            wheel.bell.ring()

    async def run(self) -> None:
        """Do what is due, as it comes due."""
        async with asyncio.TaskGroup() as group:
            for wheel in self._wheels:
                group.create_task(wheel.run())


class _Wheel:
    """One kind of work."""

    def __init__(self, work: DueWork, poll_seconds_max: float, clock: Clock, randomness: Randomness, metrics: Metrics) -> None:
        self._work, self._poll_seconds_max, self._clock, self._randomness = work, poll_seconds_max, clock, randomness
        self._metrics = metrics
        self.bell = Doorbell(clock)
        self._failures = 0
        self._busy_pause, self._idle_pause = POLL_SECONDS_MIN, IDLE_SECONDS_MIN

    async def run(self) -> None:
        while True:
            try:
                pause = await self._turn()
            except HeadwaterError as error:
                if not (error.retryable or isinstance(error, (StorageError, EffectsRefused))):
                    raise
                self._failures += 1
                pause = _AGAIN.delay_seconds(self._failures, self._randomness)
                _log.warning("clockwork_waiting", error=str(error), pause_seconds=round(pause, 3))
                await self._clock.sleep(pause)
            else:
                self._failures = 0
                await self._wait(pause)

    async def _turn(self) -> float:
        """Do all that is due, and say how long to wait then."""
        seconds = await self._seconds_to_next()
        if seconds is not None and seconds <= 0:
            while await self._work.do_next():
                self._failures, self._busy_pause = 0, POLL_SECONDS_MIN
            seconds = await self._seconds_to_next()
        if seconds is not None and seconds <= 0:
            pause, self._busy_pause = self._busy_pause, min(self._busy_pause * 2, BUSY_SECONDS_MAX)
            return min(pause, self._poll_seconds_max)
        self._busy_pause = POLL_SECONDS_MIN
        longest = min(self._idle_pause, self._poll_seconds_max)
        return longest if seconds is None else min(max(seconds, POLL_SECONDS_MIN), longest)

    async def _seconds_to_next(self) -> float | None:
        seconds = await self._work.seconds_to_next()
        self._metrics.set(DUE_LATE_SECONDS, max(0.0, -seconds) if seconds is not None else 0.0, self._work.name)
        return seconds

    async def _wait(self, pause: float) -> None:
        began = self._clock.monotonic()
        was_rung = await self.bell.wait(pause)
        if not was_rung:
            self._idle_pause = min(self._idle_pause * 2, self._poll_seconds_max)
            return
        self._idle_pause = IDLE_SECONDS_MIN
        if (too_soon := RUNG_SECONDS_MIN - (self._clock.monotonic() - began)) > 0:
            await self._clock.sleep(min(too_soon, pause))
