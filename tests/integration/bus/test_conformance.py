"""The bus's promises on real servers: through a relay and Kafka, and from the log itself with no broker at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from uuid import uuid4

import pytest

from headwater.bus import DeadLetter, DeadLetters, KafkaSource, MessageSource, PostgresEffects, PostgresLogPartitions, PostgresSource
from headwater.coordination import PostgresLeases
from headwater.eventstore import PostgresEventStore, WatchedEventStore
from headwater.kafka import KafkaSettings, Partition
from headwater.outbox import KafkaRelayBroker, PostgresRelayPositions, Relay, RelayOptions
from headwater.postgres import Database
from headwater.testing.conformance import BusBed, BusConformance
from headwater.testing.conformance.bus_bed import stopped

LEASE_SECONDS = 2.0
CUT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


class Bells:
    """Who wants to hear of appends."""

    def __init__(self) -> None:
        self.wakes: list[Callable[[], None]] = []

    def ring(self) -> None:
        for wake in self.wakes:
            wake()


def bed_on(database: Database, category: str, bells: Bells, new_source: Callable[[str], MessageSource]) -> BusBed:
    store = WatchedEventStore(PostgresEventStore(database), on_append=bells.ring)
    effects = PostgresEffects(database, store, on_commit=bells.ring)

    async def dead_letters(group: str) -> Sequence[DeadLetter]:
        return await DeadLetters(database, group=group).list()

    async def usurp(group: str, partition: Partition) -> None:
        await effects.claim(group, partition)

    async def interrupt() -> None:
        async with database.connection() as connection:
            await connection.execute(CUT)

    return BusBed(category, store, effects, new_source, dead_letters, usurp, interrupt)


@pytest.fixture
def bells() -> Bells:
    return Bells()


class TestPostgresSource(BusConformance):
    """Handlers fed by the log."""

    @pytest.fixture
    async def bed(self, database: Database, bells: Bells) -> BusBed:
        def new_source(group: str) -> PostgresSource:
            source = PostgresSource(
                PostgresEventStore(database),
                PostgresLogPartitions(database),
                PostgresLeases(database),
                group=group,
                lease_seconds=LEASE_SECONDS,
            )
            bells.wakes.append(source.wake)
            return source

        return bed_on(database, "order", bells, new_source)


class TestKafkaSource(BusConformance):
    """Handlers fed by Kafka, which a relay fills."""

    @pytest.fixture
    async def bed(self, database: Database, kafka_bootstrap: str, bells: Bells) -> AsyncIterator[BusBed]:
        settings = KafkaSettings.parse(kafka_bootstrap, client_id="headwater-test", topic_partitions=3)
        relay = Relay(
            PostgresEventStore(database),
            KafkaRelayBroker(settings),
            PostgresRelayPositions(database),
            event_source="/services/conformance",
            options=RelayOptions(),
        )
        bells.wakes.append(relay.wake)
        task = asyncio.create_task(relay.run(), name="relay")
        try:
            yield bed_on(database, f"order{uuid4().hex[:12]}", bells, lambda group: KafkaSource(settings, group=group))
        finally:
            await stopped(task)
