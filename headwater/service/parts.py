"""What is there while a service is open, and what works in it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from headwater.bus import Consumer, DeadLetterRetrier, DeadLetters, PostgresEffects, PostgresSource
from headwater.config import Settings
from headwater.eventstore import (
    LogDoorbell,
    LogTail,
    PersonalEventStore,
    PostgresEventStore,
    PostgresSnapshotStore,
    WatchedEventStore,
)
from headwater.kafka import KafkaSettings, ValueDecoder, ValueEncoder
from headwater.outbox import KafkaRelayBroker, PostgresRelayPositions, Publisher, Relay, RelayOptions
from headwater.postgres import Database
from headwater.privacy import PersonalData
from headwater.projections import (
    ProjectionRunner,
    ReadModels,
)
from headwater.sagas import DeadlineWorker, Sagas

if TYPE_CHECKING:
    from headwater.service.service import Service


class Parts:
    """What is there while a service is open."""

    def __init__(self, service: Service, database: Database, personal: PersonalData) -> None:
        self.database, self.personal = database, personal
        self.wake_workers: list[Callable[[], None]] = []
        self.doorbell = LogDoorbell(database, on_ring=self.wake)
        self.log = PostgresEventStore(database)
        """What is stored, personal data sealed."""
        self.store = WatchedEventStore(PersonalEventStore(self.log, personal), on_append=self._appended)
        self.tail = LogTail(self.store)
        self.wake_workers.append(self.tail.wake)
        self.publisher = Publisher(self.store, service.events.registry)
        self.read_models = ReadModels(database, self.store, service.events.registry, wake=self.wake)
        self.dead_letters = DeadLetters(database, group=service.name)
        self.sagas = Sagas(database)
        self.snapshots = PostgresSnapshotStore(database)
        self.stream_cache = service.new_stream_cache()
        self.kafka: KafkaSettings | None = None

    def listen(self) -> None:
        """Hear of appends in other processes."""
        self.doorbell.listen()

    def _appended(self) -> None:
        self.wake()
        self.doorbell.ring()

    def wake(self) -> None:
        """There may be something new in the log."""
        for wake in self.wake_workers:
            wake()


def workers_of(
    service: Service, parts: Parts, settings: Settings, encoder: ValueEncoder, decoder: ValueDecoder
) -> list[Coroutine[Any, Any, None]]:
    """What serves an open service: with Kafka the relay of its log, and what its handlers, sagas and read models need."""
    parts.listen()
    workers: list[Coroutine[Any, Any, None]] = []
    if parts.kafka is not None:
        relay = Relay(
            parts.log,
            KafkaRelayBroker(parts.kafka),
            PostgresRelayPositions(parts.database),
            event_source=f"/services/{service.name}",
            values=encoder,
            instance_id=settings.instance_id,
            options=RelayOptions(topic_prefix=parts.kafka.topic_prefix),
        )
        parts.wake_workers.append(relay.wake)
        workers.append(relay.run())
    if service.projections:
        runner = ProjectionRunner(parts.database, parts.store, service.events.registry, list(service.projections.values()), tail=parts.tail)
        workers.append(runner.run())
    # Rung again after the commit: an append in a handler rang before others could see it.
    effects = PostgresEffects(parts.database, parts.store, on_commit=parts.wake)
    if service.choreography:
        workers.append(DeadlineWorker(service.choreography, effects).run())
    if service.subscriptions:
        consumer = Consumer.connect(
            service.subscriptions,
            effects,
            parts.publisher,
            parts.kafka,
            group=service.name,
            values=decoder,
            source=None if parts.kafka is not None else _log_source(service, parts, settings),
            instance_id=settings.instance_id,
            registry=service.events.registry,
            personal=parts.personal,
            copy_dead_letters_to=service.copy_dead_letters_to,
        )
        retrier = DeadLetterRetrier.connect(
            service.subscriptions,
            effects,
            parts.publisher,
            group=service.name,
            values=decoder,
            registry=service.events.registry,
            personal=parts.personal,
        )
        workers += [consumer.run(), retrier.run()]
    return workers


def _log_source(service: Service, parts: Parts, settings: Settings) -> PostgresSource:
    """The log as what feeds the handlers, woken with everybody else who reads it."""
    source = PostgresSource.connect(parts.database, parts.log, group=service.name, instance_id=settings.instance_id)
    parts.wake_workers.append(source.wake)
    return source
