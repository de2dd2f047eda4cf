"""The bus's promises without servers: the in-memory bus, and the source that reads a log, on a log in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from headwater.bus import DeadLetter, MessageSource, PostgresSource
from headwater.clock import SYSTEM_CLOCK
from headwater.kafka import Partition
from headwater.testing.conformance import BusBed, BusConformance
from headwater.testing.memory_bus import MemoryLogPartitions, MemorySource, MemoryTopics
from headwater.testing.memory_effects import MemoryEffects
from headwater.testing.memory_leases import MemoryLeases
from headwater.testing.memory_store import MemoryEventStore

LEASE_SECONDS = 0.5
AWAY_SECONDS = 0.05


def bed_in_memory(store: MemoryEventStore, new_source: Callable[[str], MessageSource]) -> BusBed:
    effects = MemoryEffects(store)

    async def dead_letters(group: str) -> Sequence[DeadLetter]:
        return [letter for letter in effects.letters if letter.group == group]

    async def usurp(group: str, partition: Partition) -> None:
        # Not by a claim: transactions in memory take turns, and the one at hand would be waited for.
        row = effects.position(group, partition)
        assert row is not None
        effects.set_position(group, replace(row, epoch=row.epoch + 1))

    async def interrupt() -> None:
        effects.is_reachable = False
        await SYSTEM_CLOCK.sleep(AWAY_SECONDS)
        effects.is_reachable = True

    return BusBed("order", store, effects, new_source, dead_letters, usurp, interrupt)


class TestMemoryBus(BusConformance):
    """The in-memory bus that services are tested on."""

    @pytest.fixture
    async def bed(self) -> BusBed:
        store = MemoryEventStore()
        topics = MemoryTopics(store)
        return bed_in_memory(store, lambda group: MemorySource(topics, group=group))


class TestLogSourceInMemory(BusConformance):
    """The Postgres source on a store and leases in memory."""

    @pytest.fixture
    async def bed(self) -> BusBed:
        store, leases = MemoryEventStore(), MemoryLeases()
        partitions = MemoryLogPartitions(store)
        return bed_in_memory(store, lambda group: PostgresSource(store, partitions, leases, group=group, lease_seconds=LEASE_SECONDS))
