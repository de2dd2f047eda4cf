"""The log on PostgreSQL keeps what every event store promises."""

from __future__ import annotations

from headwater.testing.conformance import EventStoreConformance


class TestPostgresEventStore(EventStoreConformance):
    joins_transactions = True
