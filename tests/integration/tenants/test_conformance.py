"""A tenant's log keeps what every event store promises."""

from __future__ import annotations

from headwater.testing.conformance import EventStoreConformance


class TestTenantsEventStore(EventStoreConformance):
    joins_transactions = True
