"""A row of the matrix under way: where it happens, and who is to suffer next."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field

from headwater.testing import eventually
from tests.fault.matrix.bed import LEASE_SECONDS, WAIT_SECONDS, Bed, Member

REFUSED_SECONDS_MAX = 2 * LEASE_SECONDS
"""How long who was cut off may be kept out."""


@dataclass(slots=True)
class Row:
    """A row under way: where it happens, its chance, and what was counted meanwhile."""

    name: str
    bed: Bed
    chance: random.Random
    counts: Counter[str] = field(default_factory=Counter[str])

    async def moment(self, seconds_max: float) -> None:
        """Somewhere inside these seconds: when, nobody chose."""
        await asyncio.sleep(self.chance.uniform(0, seconds_max))

    async def a_relay(self) -> Member:
        """One that holds shards, and so has something on its way."""

        async def found() -> Member | None:
            self.bed.nobody_ended()
            for relay in self.chance.sample(self.bed.relays, len(self.bed.relays)):
                if await self.bed.shards_of(relay):
                    return relay
            return None

        victim = await eventually(found, WAIT_SECONDS)
        assert victim is not None
        return victim

    async def a_consumer(self) -> Member:
        """One that has partitions."""

        def found() -> Member | None:
            self.bed.nobody_ended()
            members = self.chance.sample(self.bed.consumers, len(self.bed.consumers))
            return next((member for member in members if self.bed.partitions_of(member)), None)

        victim = await eventually(found, WAIT_SECONDS)
        assert victim is not None
        return victim
