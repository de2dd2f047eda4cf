"""What every adapter promises, as test classes to inherit from.

    class TestOurStore(EventStoreConformance):
        @pytest.fixture
        async def store(self) -> OurStore: ...

Headwater's own adapters pass the same suites. Needs the extra `testing` (pytest and pytest-asyncio).
"""

from headwater.testing.conformance.bad_input import BAD_APPENDS, BadAppend
from headwater.testing.conformance.bus import BusConformance
from headwater.testing.conformance.bus_bed import BusBed
from headwater.testing.conformance.deciding import DecideConformance
from headwater.testing.conformance.event_store import EventStoreConformance
from headwater.testing.conformance.leases import LeasesConformance
from headwater.testing.conformance.snapshot_store import SnapshotStoreConformance

__all__ = [
    "BAD_APPENDS",
    "BadAppend",
    "BusBed",
    "BusConformance",
    "DecideConformance",
    "EventStoreConformance",
    "LeasesConformance",
    "SnapshotStoreConformance",
]
