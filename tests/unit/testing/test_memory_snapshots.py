"""Snapshots in memory keep what every snapshot store promises, and the decide loop over them what it promises everywhere."""

from __future__ import annotations

import pytest

from headwater.testing import MemoryEventStore, MemorySnapshotStore
from headwater.testing.conformance import DecideConformance, SnapshotStoreConformance


@pytest.fixture
def snapshots() -> MemorySnapshotStore:
    return MemorySnapshotStore()


class TestMemorySnapshotStore(SnapshotStoreConformance):
    pass


class TestDecidingInMemory(DecideConformance):
    @pytest.fixture
    def store(self) -> MemoryEventStore:
        return MemoryEventStore()
