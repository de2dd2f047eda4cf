"""What runs while a service in memory is open: its consumers, the clockwork and whoever waits for replies."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final

from headwater.bus import Clockwork, Consumer, ConsumerLimits, DeadLetterIt, DueMessages, DueSchedules, DueWork, RetryPolicy
from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.randomness import SYSTEM_RANDOMNESS, Randomness
from headwater.sagas import SagaDeadlines
from headwater.schemas import AvroDecoder
from headwater.service import Service
from headwater.testing.chaos import Disturber, Life, live_again_and_again
from headwater.testing.memory_bus import MemorySource
from headwater.testing.memory_schemas import MemorySchemaBoard
from headwater.testing.time import TurnClock

if TYPE_CHECKING:
    from headwater.testing.memory_service import MemoryParts

_RETRY_POLICY: Final = RetryPolicy(attempts_max=3, first_delay_seconds=0.001, delay_factor=1.0, jitter=0.0, then=DeadLetterIt())
_LIMITS: Final = ConsumerLimits(idle_seconds=0.002, retry_delay_seconds_max=0.002)
_CHAOS_LIMITS: Final = ConsumerLimits(
    idle_seconds=0.01,
    retry_delay_seconds_max=0.01,
    # A revocation waits for nobody: it comes in the middle of a handler.
    revoke_seconds_max=0.0,
    shutdown_seconds_max=1.0,
    reclaim_seconds=0.02,
    reconnect_seconds_max=0.01,
    # Members that receive nothing for long are unlucky, not deaf.
    probe_seconds=float("inf"),
)
_DEADLINE_POLL_SECONDS: Final = 0.005


class MemoryWorkers:
    """Undisturbed, one consumer; with a disturber, members that are killed and begun again, on a clock that a seed repeats."""

    def __init__(self, service: Service, parts: MemoryParts) -> None:
        self._service, self._parts = service, parts
        self.works: list[DueWork] = []
        """What tells whether something is due; the clockwork has its own."""
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, disturber: Disturber | None, *, seed: int, members: int, turns: TurnClock) -> None:
        """Begin, disturbed where there is a disturber: so many members, with dice from the seed."""
        parts = self._parts
        self.works = self._due_work(SYSTEM_RANDOMNESS)
        self._run(parts.requests.run(), "replies")
        if disturber is None:
            self._run(self._clockwork(SYSTEM_CLOCK, SYSTEM_RANDOMNESS), "clockwork")
            if self._service.subscriptions:
                self._run(self._consumer(MemorySource(parts.topics), _LIMITS, SYSTEM_CLOCK, SYSTEM_RANDOMNESS).run(), "consumer")
            return
        parts.effects.on_step, parts.topics.disturber = disturber.on_step, disturber
        self._run(turns.run(), "clock")

        async def member(life: Life) -> None:
            await self._member(life, turns)

        async def clockwork(life: Life) -> None:
            await self._clockwork(turns, life.dice)

        begins = [clockwork, *([member] * members if self._service.subscriptions else ())]
        for number, begin in enumerate(begins):
            self._run(live_again_and_again(seed * (members + 1) + number, begin), f"life {number}")

    async def stop(self) -> None:
        """End everything."""
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        self._tasks.clear()

    async def require_alive(self) -> None:
        """Raise what ended one of them: nothing but its own failure does."""
        for task in self._tasks:
            if task.done():
                await task

    def _run(self, worker: Coroutine[Any, Any, None], name: str) -> None:
        self._tasks.append(asyncio.create_task(worker, name=f"headwater in memory {self._service.name}: {name}"))

    def _due_work(self, randomness: Randomness) -> list[DueWork]:
        parts, service = self._parts, self._service
        works: list[DueWork] = [DueMessages(parts.scheduled, parts.store, parts.effects, randomness=randomness)]
        if service.schedules:
            works.append(DueSchedules(service.name, service.schedules, parts.schedules, parts.effects))
        if service.choreography:
            works.append(SagaDeadlines(service.choreography, parts.effects))
        return works

    async def _clockwork(self, clock: Clock, randomness: Randomness) -> None:
        works = self._due_work(randomness)
        await Clockwork(*works, poll_seconds_max=_DEADLINE_POLL_SECONDS, clock=clock, randomness=randomness).run()

    async def _member(self, life: Life, clock: Clock) -> None:
        life.source = MemorySource(self._parts.topics, clock=clock, group=self._service.name)
        await self._consumer(life.source, _CHAOS_LIMITS, clock, life.dice).run()

    def _consumer(self, source: MemorySource, limits: ConsumerLimits, clock: Clock, randomness: Randomness) -> Consumer:
        parts = self._parts
        parts.consumer = Consumer(
            group=self._service.name,
            subscriptions=self._parts.subscriptions,
            source=source,
            effects=parts.effects,
            # With a board of its own, as another process has.
            values=AvroDecoder(MemorySchemaBoard(parts.board.topic)),
            publisher=parts.publisher,
            registry=self._service.events.registry,
            personal=parts.personal,
            retry_policy=_RETRY_POLICY,
            copy_dead_letters_to=self._service.copy_dead_letters_to,
            limits=limits,
            metrics=self._service.metrics,
            clock=clock,
            randomness=randomness,
        )
        return parts.consumer
