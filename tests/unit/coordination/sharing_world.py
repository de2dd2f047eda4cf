"""Members that share items on a clock in the test's hand: they join, end, die and freeze, and what must always hold is looked at on every step."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence

from headwater.coordination import LEASE_SECONDS, Holding, Lease, LeaseFacts, LeaseShare
from headwater.randomness import SeededRandomness
from headwater.testing import FakeClock, MemoryLeases

STEP_SECONDS = 0.1
LATENCY_SECONDS_MAX = 0.05
DRAIN_SECONDS_MAX = 0.8
GAP_SECONDS_MAX = LEASE_SECONDS + 2.5
"""Longest time that nobody may hold an item while a member is well and no further one dies or freezes: a lease and two looks, or a drain."""
BALANCE_SECONDS = 2 * LEASE_SECONDS + 4
"""After this without disturbance the shares are fair: dead places have run out, and what was freed is taken."""


class Body:
    """What a process's life hangs on: frozen, it does nothing; dead, it never does anything again."""

    def __init__(self, clock: FakeClock, chance: random.Random) -> None:
        self._clock, self._chance = clock, chance
        self._runs = asyncio.Event()
        self._runs.set()

    @property
    def is_frozen(self) -> bool:
        return not self._runs.is_set()

    def freeze(self) -> None:
        self._runs.clear()

    def thaw(self) -> None:
        self._runs.set()

    def now(self):
        return self._clock.now()

    def monotonic(self) -> float:
        return self._clock.monotonic()

    async def sleep(self, seconds: float) -> None:
        await self._clock.sleep(seconds)
        await self._runs.wait()

    async def travel(self) -> None:
        """A request or an answer on its way."""
        await self._clock.sleep(self._chance.uniform(0, LATENCY_SECONDS_MAX))


class RemoteLeases:
    """The store, seen from a body: requests of a frozen one are still carried out, answers are heard when it thaws."""

    def __init__(self, leases: MemoryLeases, body: Body) -> None:
        self._leases, self._body = leases, body

    async def acquire(self, name: str, holder: str, seconds: float) -> Lease | None:
        await self._body.travel()
        lease = await self._leases.acquire(name, holder, seconds)
        await self._answer()
        return lease

    async def renew(self, leases: Sequence[Lease], seconds: float) -> Sequence[Lease]:
        await self._body.travel()
        kept = await self._leases.renew(leases, seconds)
        await self._answer()
        return kept

    async def release(self, lease: Lease) -> None:
        await self._body.travel()
        await self._leases.release(lease)
        await self._answer()

    async def list(self, prefix: str = "") -> Sequence[LeaseFacts]:
        await self._body.travel()
        facts = await self._leases.list(prefix)
        await self._answer()
        return facts

    async def _answer(self) -> None:
        await self._body.travel()
        await self._body.sleep(0)


class Member:
    """One process."""

    def __init__(self, world: World, name: str) -> None:
        self.body = Body(world.clock, world.chance)
        self._world = world
        self.working: set[Holding] = set()
        leases = RemoteLeases(world.leases, self.body)
        self.share = LeaseShare(
            leases, self._work, group="test", items=world.items, member=name, clock=self.body, randomness=SeededRandomness(world.seed)
        )
        self.task = asyncio.create_task(self.share.run())
        self.is_dead = self.is_ending = False

    def die(self) -> None:
        """The process is gone, with everything it did."""
        self.is_dead = True
        self.freeze()
        self.working.clear()

    def freeze(self) -> None:
        """The process stands still, and does not know."""
        self._world.disturbed_at = self._world.clock.monotonic()
        self.body.freeze()

    @property
    def is_well(self) -> bool:
        return not (self.is_dead or self.is_ending or self.body.is_frozen)

    async def _work(self, holding: Holding) -> None:
        self._world.began(holding)
        self.working.add(holding)
        try:
            while not holding.recalled.is_set():
                await self.body.sleep(self._world.chance.uniform(0.05, 0.3))
            await self.body.sleep(self._world.chance.uniform(0, DRAIN_SECONDS_MAX))
        finally:
            self.working.discard(holding)


class World:
    """All members, and the rules."""

    def __init__(self, seed: int, items: int) -> None:
        self.seed, self.chance, self.clock = seed, random.Random(seed), FakeClock()
        self.leases = MemoryLeases(clock=self.clock)
        self.items = [str(number) for number in range(items)]
        self.members: list[Member] = []
        self.terms: set[tuple[str, int]] = set()
        self.held_at = dict.fromkeys(self.items, 0.0)
        self.disturbed_at = 0.0
        self.longest_gap = 0.0
        self.taken_count = 0

    def began(self, holding: Holding) -> None:
        assert (holding.item, holding.lease.term) not in self.terms, "two holders of the same term"
        self.terms.add((holding.item, holding.lease.term))
        self.taken_count += 1

    def join(self, name: str) -> Member:
        self.members.append(Member(self, name))
        return self.members[-1]

    async def advance(self, seconds: float) -> None:
        for _ in range(round(seconds / STEP_SECONDS)):
            await self.clock.advance(STEP_SECONDS)
            self.check()

    def check(self) -> None:
        """At no moment two who may believe that they hold an item, and no item left alone for long."""
        valid = [holding.item for member in self.members for holding in member.working if holding.is_valid]
        assert max(Counter(valid).values(), default=1) == 1, f"two holders at once: {Counter(valid).most_common(1)}"
        now = self.clock.monotonic()
        by_the_well = {holding.item for member in self.members if member.is_well or member.is_ending for holding in member.working}
        for item in self.items:
            if item in by_the_well:
                self.held_at[item] = now
            gap = now - max(self.held_at[item], self.disturbed_at)
            self.longest_gap = max(self.longest_gap, gap)
            assert gap <= GAP_SECONDS_MAX, f"nobody held {item} for {gap:.1f} s"

    def counts(self) -> list[int]:
        """How many items each well member works on, the most first."""
        return sorted((len(member.working) for member in self.members if member.is_well), reverse=True)

    def fair_counts(self) -> list[int]:
        members = len(self.counts())
        share, larger = divmod(len(self.items), members)
        return [share + (rank < larger) for rank in range(members)]

    async def close(self) -> None:
        for member in self.members:
            member.body.thaw()
            member.task.cancel()
        while not all(member.task.done() for member in self.members):
            await self.clock.advance(STEP_SECONDS)
        await asyncio.gather(*(member.task for member in self.members), return_exceptions=True)
