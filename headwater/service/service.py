"""The object that users decorate."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType, UnionType
from typing import Any, Self, TypeVar, Unpack, get_args, overload
from uuid import UUID

from headwater.bus import (
    LANE_TRANSACTIONS_MAX,
    CategoryDecorator,
    DeadLetters,
    HandlerDecorator,
    HandlerOptions,
    MessageDeadLettered,
    Subscriptions,
    named_classes,
    require_source,
)
from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.config import Settings, Source, load_settings
from headwater.embedded import SHARED_SERVERS
from headwater.errors import SchemaError, StoreNotOpen, UsageError
from headwater.eventstore import (
    READ_BATCH_SIZE,
    Checkpoint,
    Decider,
    Decision,
    EventSelection,
    EventStore,
    EventSubscription,
    StreamCache,
    Subscription,
    decide,
)
from headwater.kafka import JSON_DECODER, JSON_ENCODER, KafkaSecurity, KafkaSettings, ValueDecoder, ValueEncoder, check_broker
from headwater.messages import Event, are_events_personal
from headwater.metrics import NO_METRICS, Metrics
from headwater.postgres import CONNECTIONS_MAX, CallerConnection, Database, apply_migrations, require_current_schema, topic_prefix
from headwater.privacy import ForgottenSubject, KeySource, MasterKey, PersonalData, PostgresSubjectKeys, require_cipher
from headwater.projections import (
    Projection,
    SqlProjection,
    register_projections,
)
from headwater.sagas import Choreography, Saga, Sagas
from headwater.sagas import definition_of as saga_definition_of
from headwater.schemas import AvroDecoder, AvroEncoder, KafkaSchemaBoard, PostgresSchemas, SchemaBoard, SchemaRegistry
from headwater.service.events import ServiceEvents
from headwater.service.foreign import ForeignTopics, Values, encoder_by_category
from headwater.service.parts import Parts, workers_of
from headwater.service.read_models import KeepsReadModels
from headwater.service.schedules import DefinesSchedules
from headwater.service.surroundings import SurroundsHandlers
from headwater.supervision import Supervisor, supervised
from headwater.telemetry import configure_logging_once
from headwater.tracing import producer_span

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,59}")

State = TypeVar("State")
Command = TypeVar("Command")
EventT = TypeVar("EventT", bound=Event)
E1 = TypeVar("E1", bound=Event)
E2 = TypeVar("E2", bound=Event)
E3 = TypeVar("E3", bound=Event)
ProjectionT = TypeVar("ProjectionT", bound=Projection)
SagaClassT = TypeVar("SagaClassT", bound=type[Saga])
AnyProjectionT = TypeVar("AnyProjectionT", bound="type[Projection | SqlProjection]")


class Service(DefinesSchedules, ForeignTopics, KeepsReadModels, SurroundsHandlers):
    """A named part of a system, with its log, its handlers and its read models.

    Args:
        name: consumer group, CloudEvents source and, embedded, database; lower-case letters, digits, `-` and `_`, starting with a letter.
        values: what this service's events are on Kafka: Avro in the Confluent wire format, under schemas made from their classes, or JSON. It
            reads both, whatever it writes.
        source: what feeds the handlers: `"kafka"`, or `"postgres"`, the log itself, and then nothing needs a broker; by default what the settings
            say, which is Kafka unless they say otherwise.
        settings: where the servers are; by default from the environment and the configuration file when the service opens.
        cached_streams_max: how many folded streams `decide` keeps in this process, at most; by default none. States must not be changed then.
        key_source: finds the keys of personal data that other services sealed; without one, their events come redacted.
        copy_dead_letters_to: `MessageDeadLettered`, or a subclass: every dead letter is also appended as an event of this class, for whoever
            subscribes to it.
        metrics: where measurements go, like `PrometheusMetrics()`; by default nowhere. `headwater run --http` sees to it by itself.
    """

    def __init__(
        self,
        name: str,
        *,
        values: Values = "avro",
        source: Source | None = None,
        settings: Settings | None = None,
        cached_streams_max: int = 0,
        key_source: KeySource | None = None,
        copy_dead_letters_to: type[MessageDeadLettered] | None = None,
        metrics: Metrics = NO_METRICS,
    ) -> None:
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"the service name {name!r} must have 1 to 60 lower-case letters, digits, '-' or '_', starting with a letter: it names the consumer group"
            )
        if values not in get_args(Values):
            raise UsageError(f"Service({name!r}, values={values!r}) is neither 'avro' nor 'json'")
        if source is not None and source not in get_args(Source):
            raise UsageError(f"Service({name!r}, source={source!r}) is neither 'kafka' nor 'postgres'")
        self.name = name
        self.values: Values = values
        self.source: Source | None = source
        self.events = ServiceEvents(self)
        self.subscriptions = Subscriptions()
        self.choreography = Choreography(self.subscriptions)
        self.metrics = metrics
        super().__init__()
        self._settings, self._cached_streams_max, self._key_source = settings, cached_streams_max, key_source
        self.copy_dead_letters_to = copy_dead_letters_to
        if copy_dead_letters_to is not None:
            self.events.register(copy_dead_letters_to)
        self._parts: Parts | None = None
        self._stack: AsyncExitStack | None = None

    # -- defining -----------------------------------------------------------------------------------------------------

    @overload
    def on(self, first: type[E1], /, **options: Unpack[HandlerOptions]) -> HandlerDecorator[E1]: ...
    @overload
    def on(self, first: type[E1], second: type[E2], /, **options: Unpack[HandlerOptions]) -> HandlerDecorator[E1 | E2]: ...
    @overload
    def on(
        self, first: type[E1], second: type[E2], third: type[E3], /, **options: Unpack[HandlerOptions]
    ) -> HandlerDecorator[E1 | E2 | E3]: ...
    @overload
    def on(self, *, category: str, **options: Unpack[HandlerOptions]) -> CategoryDecorator: ...
    @overload
    def on(self, *event_classes: type[Event] | UnionType, **options: Unpack[HandlerOptions]) -> HandlerDecorator[Any]: ...
    def on(
        self, *event_classes: type[Event] | UnionType, category: str | None = None, **options: Unpack[HandlerOptions]
    ) -> HandlerDecorator[Any] | CategoryDecorator:
        """Register an `async def handler(event)` or `(event, context)` for these event classes, or for everything of a category; see docs/handlers.md.

        Its effects on the database and the position in the topic commit together: once, whatever crashes or is delivered again. Effects on
        other systems are not covered; give them `context.idempotency_key`.

        A message that fails is tried again quickly, then parked: later messages of its stream wait behind it, and nothing else does. `retry` and
        `on_error` say otherwise: `@service.on(OrderPlaced, on_error={PaymentDown: Park(), ValueError: DeadLetterIt()})`; see docs/retries.md.

        Args:
            category: instead of event classes; the handler takes a `RecordedEvent`, or an `Event`, and then a type without a class is a dead letter.
            options: see `headwater.bus.HandlerOptions`.
        Raises:
            UsageError: at import, when the function cannot be a handler of these events, or an option means nothing.
        """
        decorator: HandlerDecorator[Any] | CategoryDecorator
        if category is not None:
            decorator = self.subscriptions.on_category(category, event_classes, **options)
        else:
            decorator = self.subscriptions.on(*event_classes, **options)
            for event_class in named_classes(event_classes):
                self.events.register(event_class)
        if copy_class := options.get("copy_dead_letters_to"):
            self.events.register(copy_class)
        return decorator

    def saga(self, saga_class: SagaClassT) -> SagaClassT:
        """Register a saga: a long story that reacts to events, sends commands, sets deadlines, and undoes what may have run.

        Raises:
            UsageError: at import, when its key, steps or methods do not fit its events.
        """
        self.choreography.register(saga_class)
        for event_class in saga_definition_of(saga_class).event_classes:
            self.events.register(event_class)
        return saga_class

    # -- opening ------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Open the store and run the workers in the background.

        Raises:
            SchemaError: a registered event class cannot be written as Avro; the message names class and field.
            MigrationNeeded: the database lacks tables; the message says what to run.
            StorageUnavailable, BrokerUnavailable: a server does not answer.
        """
        await self._open(workers=True)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return await self._close(kind, error, traceback)

    @asynccontextmanager
    async def connect(self) -> AsyncGenerator[Self]:
        """Open the store alone, to append, publish and read, without running handlers, projections or the relay here.

        Raises:
            MigrationNeeded: the database lacks tables; the message says what to run.
            StorageUnavailable: PostgreSQL does not answer.
        """
        await self._open(workers=False)
        try:
            yield self
        finally:
            await self._close(None, None, None)

    async def _open(self, *, workers: bool) -> None:
        if self._stack is not None:
            raise UsageError(f"the service {self.name!r} is open already")
        settings = self.current_settings()
        configure_logging_once(settings.log_format, settings.log_level)
        async with AsyncExitStack() as stack:
            source = self.source_with(settings)
            if workers and source == "postgres" and self.subscriptions.foreign:
                raise UsageError(
                    f"the service {self.name!r} has handlers of foreign topics ({', '.join(sorted(self.subscriptions.foreign))}), which are in Kafka, "
                    "but its source is the log: set source to kafka, or leave out on_topic(...)"
                )
            parts = await self._open_parts(stack, settings, needs_kafka=workers and source == "kafka")
            if workers:
                encoder, decoder = await self._codecs(parts)
                await register_projections(parts.database, self.events.registry, list(self.projections.values()))
                await require_source(parts.database, self.name, source)
                parts.subscriptions = await stack.enter_async_context(self.surroundings.around(self.subscriptions))
                parts.supervisor = Supervisor(workers_of(self, parts, settings, encoder, decoder), metrics=self.metrics)
                await stack.enter_async_context(supervised(parts.supervisor))
            self._parts, self._stack = parts, stack.pop_all()

    async def _close(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> bool | None:
        stack, self._stack = self._stack, None
        try:
            return await stack.__aexit__(kind, error, traceback) if stack is not None else None
        finally:
            self._parts = None

    async def _open_parts(self, stack: AsyncExitStack, settings: Settings, *, needs_kafka: bool) -> Parts:
        security = KafkaSecurity.of(settings) if needs_kafka else None
        await SHARED_SERVERS.start(postgres=settings.postgres is None, kafka=needs_kafka and settings.kafka is None)
        dsn = settings.postgres or await SHARED_SERVERS.database(self.name)
        database = await stack.enter_async_context(
            Database(
                dsn,
                # What handlers in lanes may hold open does not starve everything else.
                connections_max=CONNECTIONS_MAX + min(sum(self.subscriptions.lane_counts.values()), LANE_TRANSACTIONS_MAX),
                application_name=f"headwater {self.name}",
                schema=settings.log_schema,
                pooling=settings.postgres_pooling,
            )
        )
        async with database.connection() as connection:
            if settings.postgres is None:
                await apply_migrations(connection)
            await require_current_schema(connection)
        if are_events_personal():
            require_cipher()
        master_key = MasterKey.parse(settings.master_key.get_secret_value()) if settings.master_key is not None else None
        keys = PostgresSubjectKeys(database, master_key=master_key)
        stack.push_async_callback(keys.close)
        parts = Parts(self, database, PersonalData(keys, self.events.registry, key_source=self._key_source))
        stack.push_async_callback(parts.tail.close)
        await stack.enter_async_context(parts.doorbell)
        if needs_kafka:
            parts.kafka = KafkaSettings.parse(
                settings.kafka or SHARED_SERVERS.bootstrap,
                client_id=f"headwater-{self.name}",
                topic_partitions=settings.topic_partitions,
                topic_replication_factor=settings.topic_replication_factor,
                topic_min_insync_replicas=settings.topic_min_insync_replicas,
                topic_prefix=topic_prefix(settings.log_schema),
                security=security,
            )
            await check_broker(parts.kafka)
        return parts

    def source_with(self, settings: Settings) -> Source:
        """What feeds the handlers under these settings."""
        return self.source or settings.source

    async def _codecs(self, parts: Parts) -> tuple[ValueEncoder, ValueDecoder]:
        """What writes and reads records; without Kafka there are none."""
        if parts.kafka is None:
            return JSON_ENCODER, JSON_DECODER
        board = KafkaSchemaBoard(parts.kafka)
        encoder = self.value_encoder(PostgresSchemas(parts.database), board)
        # All at once: the relay then need not stop at the first event of each type, and readers learn of them in one go.
        await encoder.prepare(event_class.event_type for event_class in self.events.registry)
        return encoder, AvroDecoder(board)

    def value_encoder(self, registry: SchemaRegistry, board: SchemaBoard) -> ValueEncoder:
        """What makes the values of this service's events.

        Raises:
            SchemaError: a registered event class cannot be written as Avro; the message names class and field.
        """
        return encoder_by_category(self.values, self.formats, lambda: self._avro_encoder(registry, board))

    def _avro_encoder(self, registry: SchemaRegistry, board: SchemaBoard) -> ValueEncoder:
        encoder = AvroEncoder(self.events.registry, registry, board)
        try:
            encoder.check()
        except SchemaError as error:
            raise SchemaError(f"{error}. Or let the service write JSON to Kafka: Service({self.name!r}, values='json')") from error
        return encoder

    def new_stream_cache(self, *, clock: Clock = SYSTEM_CLOCK) -> StreamCache | None:
        """What `decide` keeps folded streams in while the service is open, if anything."""
        return StreamCache(streams_max=self._cached_streams_max, clock=clock) if self._cached_streams_max else None

    # -- using --------------------------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether it can be used now."""
        return self._parts is not None

    def current_settings(self) -> Settings:
        """The settings given, or those of the environment and the configuration file now."""
        return self._settings or load_settings()

    def open_parts(self) -> Parts:
        """What is there while the service is open.

        Raises:
            StoreNotOpen: it is not.
        """
        if self._parts is None:
            raise StoreNotOpen(
                f"the service {self.name!r} is not open; use it inside `async with service:` (or `async with service.connect():`)"
            )
        return self._parts

    @property
    def store(self) -> EventStore:
        """The log: append, read streams, read everything in order."""
        return self.open_parts().store

    @property
    def database(self) -> Database:
        """The service's database, for tables of its own; `async with service.database.transaction() as connection`."""
        return self.open_parts().database

    @property
    def dead_letters(self) -> DeadLetters:
        """Messages whose handler kept failing, with their errors."""
        return self.open_parts().dead_letters

    @property
    def sagas(self) -> Sagas:
        """The service's sagas: list them, and look at one with its steps, deadlines and history."""
        return self.open_parts().sagas

    def addresses(self) -> dict[str, str]:
        """Where the servers are, without passwords."""
        parts = self.open_parts()
        return {"postgres": parts.database.address, **({"kafka": parts.kafka.address} if parts.kafka else {})}

    @overload
    def subscribe(
        self,
        first: type[EventT],
        /,
        *others: type[EventT],
        categories: tuple[str, ...] = ...,
        stream_prefixes: tuple[str, ...] = ...,
        after: Checkpoint | int = ...,
        batch_size_max: int = ...,
    ) -> EventSubscription[EventT]: ...
    @overload
    def subscribe(
        self,
        *,
        categories: tuple[str, ...] = ...,
        stream_prefixes: tuple[str, ...] = ...,
        after: Checkpoint | int = ...,
        batch_size_max: int = ...,
    ) -> EventSubscription[Event]: ...
    def subscribe(
        self,
        *event_classes: type[Event],
        categories: tuple[str, ...] = (),
        stream_prefixes: tuple[str, ...] = (),
        after: Checkpoint | int = 0,
        batch_size_max: int = READ_BATCH_SIZE,
    ) -> EventSubscription[Any]:
        """The log's events in order, first those that are there, then those that come: `async for event in service.subscribe(OrderPlaced)`.

        Each event comes once, also while others append, and through restarts of the server. Nothing is stored: keep `checkpoint` of what this
        returns and give it as `after` to go on later. `batches` of it has the recorded events, many at once.

        Args:
            event_classes: only events of these classes; none means every event.
            categories, stream_prefixes: of these only those in such categories, or in streams whose names begin so.
            after: the checkpoint, or the position, of the last event already seen; by default the first event comes first.
                `await service.store.last_checkpoint()` begins with what comes from now on.
            batch_size_max: read at most so many at once, 1 to 10,000; memory is what it costs.
        Raises:
            StoreNotOpen: the service is not open.
            UsageError: a selection, `after` or `batch_size_max` cannot be meant.
            LogDiverged: when iterating: the log lost the event of the checkpoint (a failover, or a restored backup).
        """
        parts = self.open_parts()
        parts.listen()
        for event_class in event_classes:
            self.events.register(event_class)
        selection = EventSelection(categories, tuple(event_class.event_type for event_class in event_classes), stream_prefixes)
        reading = Subscription(parts.store, selection, after=after, batch_size_max=batch_size_max, tail=parts.tail)
        return EventSubscription(reading, self.events.registry)

    async def decide(
        self,
        stream_name: str,
        command: Command,
        decider: Decider[Command, State],
        *,
        connection: CallerConnection | None = None,
        command_id: UUID | None = None,
    ) -> Decision[State]:
        """Decide a command on a stream's present state and append what follows; again, when another writer was first.

        Args:
            command_id: the same for every repetition of one command; a repetition gets the first decision again and stores nothing.
        Raises:
            WrongExpectedVersion: others were first every time.
            DuplicateEvent: the command id was used on another stream.
            StorageUnavailable: outcome unknown; repeat with the same command id.
        """
        parts = self.open_parts()
        with producer_span("decide", stream_name):
            decision = await decide(
                parts.store,
                self.events.registry,
                decider,
                stream_name,
                command,
                connection=connection,
                command_id=command_id,
                snapshots=parts.snapshots,
                cache=parts.stream_cache,
                personal=parts.personal,
            )
        if decision.result is not None:
            # What a repeated command stored before, maybe in another process, is its caller's own write, too.
            parts.store.note_written(decision.result.global_position)
        return decision

    async def forget(self, subject: str) -> ForgottenSubject | None:
        """Destroy the key of a data subject: its personal data comes redacted from now on, here at once and elsewhere within 10 seconds.

        Read models keep what they have until they are rebuilt. None when nothing was ever sealed for this subject.

        Raises:
            StorageUnavailable: outcome unknown; repeat.
        """
        parts = self.open_parts()
        try:
            return await parts.personal.forget(subject)
        finally:
            if parts.stream_cache is not None:
                parts.stream_cache.clear()
