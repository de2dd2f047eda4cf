"""The memory store keeps what every event store promises."""

from __future__ import annotations

import pytest

from headwater.testing import MemoryEventStore
from headwater.testing.conformance import EventStoreConformance


class TestMemoryEventStore(EventStoreConformance):
    @pytest.fixture
    def store(self) -> MemoryEventStore:
        return MemoryEventStore()
