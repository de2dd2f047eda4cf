"""What goes wrong on purpose in a service in memory, thrown from a seed.

A *life* is one run of a member of the group, or of the clockwork, until it is killed; another begins in its place. Killing ends all of a life's tasks as
SIGKILL would as far as the database can tell: whatever it still tries to do in a transaction is cut off, so nothing that was not committed ever is.

A disturber is asked at every step of the transactions of a life, and whenever it receives. Steps of others, the test's own among them, go undisturbed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, fields
from itertools import count
from typing import Any, Final, Protocol

from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.errors import UsageError
from headwater.kafka import Envelope, Partition
from headwater.randomness import SeededRandomness
from headwater.testing.memory_bus import MemorySource
from headwater.testing.memory_effects import MemoryEffects, Step, answer_lost

MEMBERS_MAX: Final = 16
CHANCE_MAX: Final = 0.9
"""What always happens would let nothing end."""
DELAY_SECONDS_MAX: Final = 0.02
"""The longest wait at one step, on the clock of the turns."""
_SKIPPED: Final = 0.3
"""The share of partitions that a member gets nothing of, each time that it receives."""
_WHOLE: Final = 0.2
"""How often it gets all that is there of a partition, and else a few records."""
_FEW_MAX: Final = 4
_WHILE_RECEIVING: Final = 0.3
"""How likely a crash or a rebalance is while there is nothing to lose, beside a step of a transaction."""
_LIVES_APART: Final = 1_000_003


@dataclass(frozen=True, slots=True)
class Chaos:
    """How often what goes wrong, and from which seed; the chances are from 0 to 0.9.

    `crash` and `rebalance` are halved with each disturbance that no commit followed, so that everything is done in the end, however much a transaction does.
    """

    seed: int
    duplicate: float = 0.2
    """A record is put into its topic again, at once or later."""
    delay: float = 0.2
    """A step waits a moment, while others go on."""
    crash: float = 0.1
    """At a step: the member is killed and another one starts; after a commit, the commit's answer may be lost instead."""
    rebalance: float = 0.1
    """At a step: the member's partitions go to others, who claim them, so that it cannot commit."""
    members: int = 2
    """So many consumers share the partitions."""

    def __post_init__(self) -> None:
        for chance in ("duplicate", "delay", "crash", "rebalance"):
            if not 0 <= getattr(self, chance) <= CHANCE_MAX:
                raise UsageError(
                    f"Chaos({chance}={getattr(self, chance)}) must be a chance from 0 to {CHANCE_MAX}; how often, not how many"
                )
        if not 1 <= self.members <= MEMBERS_MAX:
            raise UsageError(f"Chaos(members={self.members}) must be from 1 to {MEMBERS_MAX}")

    @property
    def partition_count(self) -> int:
        """Of each topic: every member has some, and one has more."""
        return max(3, 2 * self.members + 1)


@dataclass(slots=True)
class ChaosCounts:
    """What went wrong so far."""

    crashes: int = 0
    lost_answers: int = 0
    """Commits that took effect and said that they may not have."""
    rebalances: int = 0
    """In the middle of a transaction, or before receiving."""
    duplicates: int = 0
    delays: int = 0

    @property
    def total(self) -> int:
        return sum(getattr(self, one.name) for one in fields(self))


@dataclass(slots=True, eq=False)
class Life:
    """One run of a member or of the clockwork."""

    dice: SeededRandomness
    source: MemorySource | None = None
    """Of a member."""
    task: asyncio.Task[None] | None = None
    is_dead: bool = False


_LIFE: Final[ContextVar[Life | None]] = ContextVar("headwater_chaos_life", default=None)
"""Inherited by every task that a life starts, lanes among them."""


class Disturber(Protocol):
    """Decides what goes wrong, and counts it."""

    counts: ChaosCounts

    async def on_step(self, step: Step) -> None: ...
    async def receiving(self) -> None: ...
    def to_repeat(self, partition: Partition, envelope: Envelope) -> Sequence[Envelope]: ...
    def served(self, partitions: Sequence[Partition]) -> Sequence[Partition]: ...
    def amount(self, limit: int) -> int: ...


async def live_again_and_again(seed: int, begin: Callable[[Life], Coroutine[Any, Any, None]]) -> None:
    """Begin a life, and the next one whenever it was killed; ends when it is cancelled or a life fails."""
    for number in count(1):
        life = Life(SeededRandomness(seed * _LIVES_APART + number))
        token = _LIFE.set(life)
        life.task = asyncio.create_task(begin(life))
        _LIFE.reset(token)
        try:
            await life.task
        except asyncio.CancelledError:
            supervisor = asyncio.current_task()
            if not life.is_dead or supervisor is None or supervisor.cancelling():
                raise
        if life.source is not None:
            # Where its end was cut off, too, the broker notices in the end that nobody is there.
            await life.source.close()


async def kill(life: Life) -> None:
    """End a life here and now; never returns."""
    assert life.task is not None, "it lives, or lived"
    if not life.is_dead:
        life.is_dead = True
        life.task.cancel()
    if (here := asyncio.current_task()) is not None and here is not life.task:
        here.cancel()
    await SYSTEM_CLOCK.sleep(0)
    raise asyncio.CancelledError


def current_life() -> Life | None:
    """Whose task this is."""
    return _LIFE.get()


@dataclass(slots=True)
class SeededDisturber:
    """Throws dice at every step. Each life has dice of its own, and so has the relay."""

    chaos: Chaos
    group: str
    effects: MemoryEffects
    clock: Clock
    counts: ChaosCounts = field(default_factory=ChaosCounts)
    _unrest: int = 0
    """Disturbances that no commit followed yet."""
    _relay_dice: SeededRandomness = field(init=False)
    _to_repeat: dict[Partition, list[Envelope]] = field(default_factory=dict[Partition, list[Envelope]])

    def __post_init__(self) -> None:
        self._relay_dice = SeededRandomness(self.chaos.seed)

    async def on_step(self, step: Step) -> None:
        """Let go wrong what the dice say."""
        life = current_life()
        if life is None:
            return
        if life.is_dead:
            await kill(life)
        if step is Step.COMMITTED:
            await self._after_commit(life)
        else:
            await self._disturb(life)

    async def receiving(self) -> None:
        if (life := current_life()) is not None:
            if life.is_dead:
                await kill(life)
            if life.dice.uniform(0, 1) < self.chaos.crash * _WHILE_RECEIVING:
                self.counts.crashes += 1
                await kill(life)
            if life.source is not None and life.dice.uniform(0, 1) < self.chaos.rebalance * _WHILE_RECEIVING:
                self.counts.rebalances += 1
                await self._rebalance(life.source)

    def to_repeat(self, partition: Partition, envelope: Envelope) -> Sequence[Envelope]:
        waiting = self._to_repeat.setdefault(partition, [])
        if self._relay_dice.uniform(0, 1) < self.chaos.duplicate:
            waiting.append(envelope)
        if not waiting or self._relay_dice.uniform(0, 1) < 0.5:
            return ()
        self.counts.duplicates += len(waiting)
        self._to_repeat[partition] = []
        return waiting

    def served(self, partitions: Sequence[Partition]) -> Sequence[Partition]:
        life = current_life()
        if life is None:
            return partitions
        thrown = [(life.dice.uniform(0, 1), partition) for partition in partitions]
        return [partition for number, partition in sorted(thrown) if number >= _SKIPPED]

    def amount(self, limit: int) -> int:
        life = current_life()
        if life is None or life.dice.uniform(0, 1) < _WHOLE:
            return limit
        return max(1, min(limit, int(life.dice.uniform(1, _FEW_MAX + 1))))

    async def _disturb(self, life: Life) -> None:
        if life.dice.uniform(0, 1) < self.chaos.delay:
            self.counts.delays += 1
            await self.clock.sleep(life.dice.uniform(0, DELAY_SECONDS_MAX))
        if self._is_thrown(life, self.chaos.crash):
            self.counts.crashes += 1
            await kill(life)
        if life.source is not None and self._is_thrown(life, self.chaos.rebalance):
            self.counts.rebalances += 1
            await self._rebalance(life.source)

    async def _after_commit(self, life: Life) -> None:
        if not self._is_thrown(life, self.chaos.crash):
            self._unrest = max(self._unrest - 1, 0)
        elif life.dice.uniform(0, 1) < 0.5:
            self.counts.lost_answers += 1
            raise answer_lost()
        else:
            self.counts.crashes += 1
            await kill(life)

    def _is_thrown(self, life: Life, chance: float) -> bool:
        is_thrown = life.dice.uniform(0, 1) < chance * 0.5**self._unrest
        self._unrest += is_thrown
        return is_thrown

    async def _rebalance(self, source: MemorySource) -> None:
        before = {partition: self._epoch(partition) for partition in sorted(source.assigned)}
        await source.topics.rotate(self.group)
        for partition, epoch in before.items():
            # The new owner would claim it in a moment, and perhaps after the commit; a member that claimed it and died was faster.
            if self._epoch(partition) == epoch:
                await self.effects.claim(self.group, partition)

    def _epoch(self, partition: Partition) -> int:
        known = self.effects.position(self.group, partition)
        return 0 if known is None else known.epoch
