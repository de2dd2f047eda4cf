"""What tests of a service need: doubles that keep the same contracts as the real rooms, and databases that are quick to make.

Nothing here talks to a server unless it says so by name. The doubles pass the suites in `headwater.testing.conformance` that the
adapters for PostgreSQL and Kafka pass, so a handler that works on them works on those; what they cannot show is what only real servers
do: crashes, slow disks, other people's transactions.

The names are imported when they are first used: pytest loads `headwater.testing.pytest_plugin` in every project that has Headwater
installed, and must not pay for it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headwater.randomness import SeededRandomness
    from headwater.testing.chaos import Chaos, ChaosCounts
    from headwater.testing.crash_points import CrashPoint, CrashReport, CrashScenario, check_crash_points, run_crash_point
    from headwater.testing.crash_steps import crash_at_every_step
    from headwater.testing.memory_bus import MemorySource, MemoryTopics
    from headwater.testing.memory_effects import MemoryEffects
    from headwater.testing.memory_keys import MemorySubjectKeys
    from headwater.testing.memory_leases import MemoryLeases
    from headwater.testing.memory_metrics import MemoryMetrics
    from headwater.testing.memory_projections import MemoryReadModels
    from headwater.testing.memory_sagas import MemorySagas
    from headwater.testing.memory_service import MemoryService, memory_service
    from headwater.testing.memory_snapshots import MemorySnapshotStore
    from headwater.testing.memory_store import MemoryEventStore
    from headwater.testing.postgres import MigratedDatabases
    from headwater.testing.postgres_proxy import PostgresProxy
    from headwater.testing.scenario import Scenario, given
    from headwater.testing.time import FakeClock
    from headwater.testing.waiting import eventually

_HOMES = {
    "Chaos": "headwater.testing.chaos",
    "ChaosCounts": "headwater.testing.chaos",
    "CrashPoint": "headwater.testing.crash_points",
    "CrashReport": "headwater.testing.crash_points",
    "CrashScenario": "headwater.testing.crash_points",
    "FakeClock": "headwater.testing.time",
    "MemoryEffects": "headwater.testing.memory_effects",
    "MemoryEventStore": "headwater.testing.memory_store",
    "MemoryLeases": "headwater.testing.memory_leases",
    "MemoryMetrics": "headwater.testing.memory_metrics",
    "MemoryReadModels": "headwater.testing.memory_projections",
    "MemorySagas": "headwater.testing.memory_sagas",
    "MemoryService": "headwater.testing.memory_service",
    "MemorySnapshotStore": "headwater.testing.memory_snapshots",
    "MemorySource": "headwater.testing.memory_bus",
    "MemoryTopics": "headwater.testing.memory_bus",
    "MemorySubjectKeys": "headwater.testing.memory_keys",
    "MigratedDatabases": "headwater.testing.postgres",
    "PostgresProxy": "headwater.testing.postgres_proxy",
    "Scenario": "headwater.testing.scenario",
    "SeededRandomness": "headwater.randomness",
    "check_crash_points": "headwater.testing.crash_points",
    "crash_at_every_step": "headwater.testing.crash_steps",
    "eventually": "headwater.testing.waiting",
    "given": "headwater.testing.scenario",
    "memory_service": "headwater.testing.memory_service",
    "run_crash_point": "headwater.testing.crash_points",
}

__all__ = [
    "Chaos",
    "ChaosCounts",
    "CrashPoint",
    "CrashReport",
    "CrashScenario",
    "FakeClock",
    "MemoryEffects",
    "MemoryEventStore",
    "MemoryLeases",
    "MemoryMetrics",
    "MemoryReadModels",
    "MemorySagas",
    "MemoryService",
    "MemorySnapshotStore",
    "MemorySource",
    "MemorySubjectKeys",
    "MemoryTopics",
    "MigratedDatabases",
    "PostgresProxy",
    "Scenario",
    "SeededRandomness",
    "check_crash_points",
    "crash_at_every_step",
    "eventually",
    "given",
    "memory_service",
    "run_crash_point",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(_HOMES[name]), name)
    globals()[name] = found
    return found
