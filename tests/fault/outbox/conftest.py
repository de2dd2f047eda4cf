"""A log and a relay on real servers."""

from __future__ import annotations

from uuid import uuid4

import pytest

from headwater.eventstore import PostgresEventStore
from headwater.kafka import KafkaSettings
from headwater.postgres import Database
from tests.outbox_support import RelayOnServers


@pytest.fixture
def category() -> str:
    """A category, and so a topic, of the test's own."""
    return f"order{uuid4().hex[:12]}"


@pytest.fixture
def kafka_settings(kafka_bootstrap: str) -> KafkaSettings:
    return KafkaSettings.parse(kafka_bootstrap, client_id="headwater-test", topic_partitions=6)


@pytest.fixture
async def servers(database: Database, store: PostgresEventStore, kafka_settings: KafkaSettings, category: str) -> RelayOnServers:
    """Makes relays over real servers, and looks at what they did."""
    return RelayOnServers(database, store, kafka_settings, category)
