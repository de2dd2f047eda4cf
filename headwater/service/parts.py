"""What is there while a service is open, and what works in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from headwater.bus import (
    Clockwork,
    Consumer,
    DeadLetterRetrier,
    DeadLetters,
    DueMessages,
    DueSchedules,
    DueWork,
    KafkaReplySource,
    LogReplySource,
    PostgresEffects,
    PostgresSchedules,
    PostgresSource,
    ReplySource,
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
from headwater.supervision import Supervisor, Worker

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
        self.metrics = service.metrics
        self.subscriptions = service.subscriptions
        """The handlers, with what stands around them once workers run."""
        self.supervisor: Supervisor | None = None
        self.relay: Relay | None = None
        self.consumer: Consumer | None = None
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


def workers_of(service: Service, parts: Parts, settings: Settings, encoder: ValueEncoder, decoder: ValueDecoder) -> list[Worker]:
    """What serves an open service: with Kafka the relay of its log, and what its handlers, sagas and read models need."""
    parts.listen()
    made = Workers(service, parts, settings, encoder, decoder)
    parts.wake_workers.append(made.wake)
    workers: list[Worker] = []
    if parts.kafka is not None:
        workers.append(Worker("relay", made.relay))
    if service.projections:
        workers.append(Worker("projections", made.projections))
    # One for all starts: whoever asks may do so before the worker runs, and waits on while it is started again.
    parts.requests = requests = made.requests()
    workers += [Worker("clockwork", made.clockwork), Worker("replies", lambda: requests)]
    if service.subscriptions:
        workers += [Worker("consumer", made.consumer), Worker("retrier", made.retrier)]
    return workers


class Workers:
    """Makes workers, anew for every start of theirs."""

    def __init__(self, service: Service, parts: Parts, settings: Settings, encoder: ValueEncoder, decoder: ValueDecoder) -> None:
        self._service, self._parts, self._settings = service, parts, settings
        self._encoder, self._decoder = encoder, decoder
        self._log_source: PostgresSource | None = None
        self._log_replies: LogReplySource | None = None
        self._clockwork: Clockwork | None = None
        # Rung again after the commit: an append in a handler rang before others could see it.
        self._effects = PostgresEffects(parts.database, parts.store, on_commit=parts.wake)

    def relay(self) -> Relay:
        """The log into Kafka."""
        kafka = self._parts.kafka
        assert kafka is not None, "a relay needs Kafka"
        self._parts.relay = Relay(
            self._parts.log,
            KafkaRelayBroker(kafka),
            PostgresRelayPositions(self._parts.database),
            event_source=f"/services/{self._service.name}",
            values=self._encoder,
            instance_id=self._settings.instance_id,
            options=RelayOptions(topic_prefix=kafka.topic_prefix),
            metrics=self._parts.metrics,
        )
        return self._parts.relay

    def wake(self) -> None:
        """There may be something new in the log."""
        if self._parts.relay is not None:
            self._parts.relay.wake()
        if self._log_source is not None:
            self._log_source.wake()
        if self._log_replies is not None:
            self._log_replies.wake()
        if self._clockwork is not None:
            self._clockwork.wake()

    def projections(self) -> ProjectionRunner:
        """Read models from the log."""
        service, parts = self._service, self._parts
        return ProjectionRunner(parts.database, parts.store, service.events.registry, list(service.projections.values()), tail=parts.tail)

    def clockwork(self) -> Clockwork:
        """What comes due: messages for later, schedules, the deadlines of sagas."""
        self._clockwork = Clockwork(*due_works(self._service, self._parts, self._effects), metrics=self._parts.metrics)
        return self._clockwork

    def requests(self) -> Requests:
        """Questions to other services, whose replies come over Kafka, or through the log."""
        parts = self._parts
        source: ReplySource
        if parts.kafka is not None:
            source, topic_prefix = KafkaReplySource(parts.kafka), parts.kafka.topic_prefix
        else:
            source = self._log_replies = LogReplySource(parts.log)
            topic_prefix = ""
        return Requests(
            self._service.name,
            parts.store,
            source,
            self._service.events.registry,
            values=self._decoder,
            personal=parts.personal,
            topic_prefix=topic_prefix,
        )

    def consumer(self) -> Consumer:
        """Kafka, or the log itself, to the handlers."""
        parts, service = self._parts, self._service
        if parts.kafka is None:
            self._log_source = PostgresSource.connect(parts.database, parts.log, group=service.name, instance_id=self._settings.instance_id)
        parts.consumer = Consumer.connect(
            parts.subscriptions,
            self._effects,
            parts.publisher,
            parts.kafka,
            group=service.name,
            values=self._decoder,
            source=self._log_source,
            copy_dead_letters_to=service.copy_dead_letters_to,
            instance_id=self._settings.instance_id,
            registry=self._service.events.registry,
            personal=self._parts.personal,
            metrics=self._parts.metrics,
        )
        return parts.consumer

    def retrier(self) -> DeadLetterRetrier:
        """Dead letters that somebody wants tried again."""
        return DeadLetterRetrier.connect(
            self._parts.subscriptions,
            self._effects,
            self._parts.publisher,
            group=self._service.name,
            values=self._decoder,
            registry=self._service.events.registry,
            personal=self._parts.personal,
        )


def due_works(service: Service, parts: Parts, effects: PostgresEffects) -> list[DueWork]:
    """What comes due on the database's clock: messages for later, also those of services that do not run, recurring schedules, sagas' deadlines."""
    works: list[DueWork] = [DueMessages(parts.scheduled, parts.store, effects)]
    if service.schedules:
        works.append(DueSchedules(service.name, service.schedules, PostgresSchedules(parts.database, service.name), effects))
    if service.choreography:
        works.append(SagaDeadlines(service.choreography, effects))
    return works
