"""The deadlines of sagas, as work for the clockwork."""

from __future__ import annotations

from typing import Final

from headwater.bus import Clockwork, EffectStore
from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.sagas.choreography import Choreography

POLL_SECONDS_MAX: Final = 0.5
"""The longest pause of a `DeadlineWorker`, which nobody wakes."""


class SagaDeadlines:
    """The deadlines of a service's sagas, as `DueWork`: each is acted on in a transaction of its own, with its saga locked."""

    name = "deadlines"

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
    """Acts on the deadlines of a service's sagas, and does nothing else, until cancelled. Any number of processes may run one; they share the work."""

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
