"""Leases in PostgreSQL keep what every store of leases promises."""

from __future__ import annotations

import pytest

from headwater.coordination import PostgresLeases
from headwater.postgres import Database
from headwater.testing.conformance import LeasesConformance


class TestPostgresLeases(LeasesConformance):
    @pytest.fixture
    def leases(self, database: Database) -> PostgresLeases:
        return PostgresLeases(database)
