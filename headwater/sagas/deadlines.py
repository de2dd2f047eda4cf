"""The clockwork: does what is due, one thing after another, beside any number of other processes that do the same."""

from __future__ import annotations

from typing import Final, Protocol

from headwater.bus import EffectsRefused, EffectStore, RetryPolicy
from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.errors import HeadwaterError, StorageError
from headwater.randomness import SYSTEM_RANDOMNESS, Randomness
from headwater.sagas.choreography import Choreography
from headwater.telemetry import logger

POLL_SECONDS_MAX: Final = 0.5
"""The longest pause; a deadline set meanwhile passes at most so late."""
POLL_SECONDS_MIN: Final = 0.01
"""The shortest, when something is due that somebody else works on."""
_AGAIN: Final = RetryPolicy(first_delay_seconds=0.1, delay_factor=2.0, delay_seconds_max=5.0)

_log = logger("sagas")


class DueWork(Protocol):
    """Something that comes due on the database's clock. Whoever does it makes sure that it is done once."""

    async def do_next(self) -> bool:
        """Do one thing that is due; False when there is none that nobody else works on."""
        ...

    async def seconds_to_next(self) -> float | None:
        """How long until the next is due, zero or less when it is; None when nothing is planned."""
        ...


class Clockwork:
    """Runs due work until cancelled; waits out a database that is away."""

    def __init__(
        self,
        work: DueWork,
        *,
        poll_seconds_max: float = POLL_SECONDS_MAX,
        clock: Clock = SYSTEM_CLOCK,
        randomness: Randomness = SYSTEM_RANDOMNESS,
    ) -> None:
        self._work, self._poll_seconds_max, self._clock, self._randomness = work, poll_seconds_max, clock, randomness

    async def run(self) -> None:
        """Do what is due, as it comes due."""
        failures = 0
        while True:
            try:
                if await self._work.do_next():
                    failures = 0
                    continue
                seconds = await self._work.seconds_to_next()
            except HeadwaterError as error:
                if not (error.retryable or isinstance(error, (StorageError, EffectsRefused))):
                    raise
                failures += 1
                pause = _AGAIN.delay_seconds(failures, self._randomness)
                _log.warning("deadlines_waiting", error=str(error), pause_seconds=round(pause, 3))
            else:
                failures = 0
                pause = self._poll_seconds_max if seconds is None else min(max(seconds, POLL_SECONDS_MIN), self._poll_seconds_max)
            await self._clock.sleep(pause)


class SagaDeadlines:
    """The deadlines of a service's sagas, as `DueWork`: each is acted on in a transaction of its own, with its saga locked."""

    def __init__(self, choreography: Choreography, effects: EffectStore) -> None:
        self._choreography, self._effects = choreography, effects

    async def do_next(self) -> bool:
        """Act on one deadline that has passed."""
        async with self._effects.transaction() as transaction:
            return await self._choreography.act_on_next_deadline(transaction) is not None

    async def seconds_to_next(self) -> float | None:
        """How long until the next one passes."""
        async with self._effects.transaction() as transaction:
            return await self._choreography.seconds_to_next_deadline(transaction)


class DeadlineWorker:
    """Acts on the deadlines of a service's sagas until cancelled. Any number of processes may run one; they share the work."""

    def __init__(
        self,
        choreography: Choreography,
        effects: EffectStore,
        *,
        poll_seconds_max: float = POLL_SECONDS_MAX,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._clockwork = Clockwork(SagaDeadlines(choreography, effects), poll_seconds_max=poll_seconds_max, clock=clock)

    async def run(self) -> None:
        """Act on deadlines as they pass."""
        await self._clockwork.run()
