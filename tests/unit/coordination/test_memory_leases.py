"""Leases in memory keep what every store of leases promises."""

from __future__ import annotations

import pytest

from headwater.testing import MemoryLeases
from headwater.testing.conformance import LeasesConformance


class TestMemoryLeases(LeasesConformance):
    @pytest.fixture
    def leases(self) -> MemoryLeases:
        return MemoryLeases()
