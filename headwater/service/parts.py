"""What is there while a service is open, and what works in it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from headwater.bus import (
    Clockwork,
    Consumer,
    DeadLetterRetrier,
    DeadLetters,
    DueMessages,
    DueSchedules,
    DueWork,
    KafkaReplySource,
    PostgresEffects,
    PostgresSchedules,
    Requests,
)
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
from headwater.outbox import KafkaRelayBroker, PostgresRelayPositions, PostgresScheduledMessages, Publisher, Relay, RelayOptions
from headwater.postgres import Database
from headwater.privacy import PersonalData
from headwater.projections import (
    ProjectionRunner,
    ReadModels,
)
from headwater.sagas import SagaDeadlines, Sagas

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
        self.scheduled = PostgresScheduledMessages(database, personal, on_schedule=self._appended)
        self.publisher = Publisher(self.store, service.events.registry, scheduled=self.scheduled)
        self.read_models = ReadModels(database, self.store, service.events.registry, wake=self.wake)
        self.dead_letters = DeadLetters(database, group=service.name)
        self.sagas = Sagas(database)
        self.snapshots = PostgresSnapshotStore(database)
        self.stream_cache = service.new_stream_cache()
        self.kafka: KafkaSettings | None = None
        self.requests: Requests | None = None
        """Asks other services; only where workers run, which receive the replies."""

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
    """What serves an open service: the relay of its log, and what its handlers, sagas and read models need."""
    assert parts.kafka is not None, "workers need Kafka"
    parts.listen()
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
    workers: list[Coroutine[Any, Any, None]] = [relay.run()]
    if service.projections:
        runner = ProjectionRunner(parts.database, parts.store, service.events.registry, list(service.projections.values()), tail=parts.tail)
        workers.append(runner.run())
    # Rung again after the commit: an append in a handler rang before others could see it.
    effects = PostgresEffects(parts.database, parts.store, on_commit=parts.wake)
    clockwork = Clockwork(*due_works(service, parts, effects))
    parts.wake_workers.append(clockwork.wake)
    workers.append(clockwork.run())
    parts.requests = Requests(
        service.name,
        parts.store,
        KafkaReplySource(parts.kafka),
        service.events.registry,
        values=decoder,
        personal=parts.personal,
        topic_prefix=parts.kafka.topic_prefix,
    )
    workers.append(parts.requests.run())
    if service.subscriptions:
        consumer = Consumer.connect(
            service.subscriptions,
            effects,
            parts.publisher,
            parts.kafka,
            group=service.name,
            values=decoder,
            instance_id=settings.instance_id,
            registry=service.events.registry,
            personal=parts.personal,
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


def due_works(service: Service, parts: Parts, effects: PostgresEffects) -> list[DueWork]:
    """What comes due on the database's clock: messages for later, also those of services that do not run, recurring schedules, sagas' deadlines."""
    works: list[DueWork] = [DueMessages(parts.scheduled, parts.store, effects)]
    if service.schedules:
        works.append(DueSchedules(service.name, service.schedules, PostgresSchedules(parts.database, service.name), effects))
    if service.choreography:
        works.append(SagaDeadlines(service.choreography, effects))
    return works
