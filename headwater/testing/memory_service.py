"""A whole service in memory: its store, its handlers, its read models, and no server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, cast

from headwater.bus import Clockwork, Consumer, ConsumerLimits, DeadLetter, DueMessages, DueSchedules, DueWork, Requests, RetryPolicy
from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.errors import HandlerFailed, UsageError
from headwater.eventstore import EventStore, LogTail, PersonalEventStore, WatchedEventStore
from headwater.kafka import Partition, partition_of
from headwater.messages import Event, RecordedEvent
from headwater.outbox import Publisher
from headwater.privacy import PersonalData
from headwater.sagas import SagaDeadlines
from headwater.schemas import AvroDecoder
from headwater.service import Service
from headwater.testing.memory_bus import MemoryReplySource, MemorySource, MemoryTopics
from headwater.testing.memory_effects import MemoryDeadLetters
from headwater.testing.memory_keys import MemorySubjectKeys
from headwater.testing.memory_projections import MemoryReadModels
from headwater.testing.memory_sagas import MemorySagaEffects, MemorySagaStore
from headwater.testing.memory_scheduled import MemoryScheduledMessages, MemorySchedules
from headwater.testing.memory_schemas import MemorySchemaBoard, MemorySchemas
from headwater.testing.memory_snapshots import MemorySnapshotStore
from headwater.testing.memory_store import MemoryEventStore
from headwater.testing.waiting import eventually

SETTLE_SECONDS: Final = 5.0
"""How long handlers may take until a test calls it stuck."""
_RETRY_POLICY: Final = RetryPolicy(attempts_max=3, first_delay_seconds=0.001, delay_factor=1.0, jitter=0.0)
_LIMITS: Final = ConsumerLimits(idle_seconds=0.002)
_DEADLINE_POLL_SECONDS: Final = 0.005


class MemoryParts:
    """What a service has while it is open, in memory."""

    def __init__(self, service: Service, clock: Clock) -> None:
        registry = service.events.registry
        self.clock = clock
        self.log = MemoryEventStore(clock=clock)
        self.board = MemorySchemaBoard()
        self.topics = MemoryTopics(self.log, values=service.value_encoder(MemorySchemas(), self.board))
        self.sagas = MemorySagaStore(clock=clock)
        self.keys = MemorySubjectKeys(clock=clock)
        self.personal = PersonalData(self.keys, registry, clock=clock)
        self.effects = MemorySagaEffects(self.log, self.sagas, clock=clock, personal=self.personal)
        self.wake_workers: list[Callable[[], None]] = []
        self.store = WatchedEventStore(PersonalEventStore(self.effects.store, self.personal), on_append=_nobody_to_wake)
        self.tail = LogTail(self.store)
        self.log.on_append(self.tail.wake)
        self.scheduled = MemoryScheduledMessages(self.log, clock=clock, personal=self.personal)
        self.schedules = MemorySchedules(clock=clock)
        self.publisher = Publisher(self.store, registry, scheduled=self.scheduled)
        self.read_models = MemoryReadModels(self.store, registry)
        self.dead_letters: MemoryDeadLetters = self.effects.dead_letters
        self.snapshots = MemorySnapshotStore()
        self.stream_cache = service.new_stream_cache(clock=clock)
        self.kafka: str | None = None
        values = AvroDecoder(MemorySchemaBoard(self.board.topic))
        self.requests = Requests(
            service.name, self.store, MemoryReplySource(self.topics), registry, values=values, personal=self.personal, clock=clock
        )

    def listen(self) -> None:
        """There is no other process."""

    @property
    def database(self) -> Any:
        raise UsageError(
            "a service in memory has no database; test what needs tables of its own on PostgreSQL (fixture headwater_postgres)"
        )


class MemoryService:
    """Holds a service that runs in memory. The service itself is used as ever: `service.store`, `service.events`, `service.read`."""

    def __init__(self, service: Service, parts: MemoryParts) -> None:
        """Use `memory_service`, which also starts the handlers."""
        self._service, self._parts = service, parts
        self._workers: list[asyncio.Task[None]] = []
        self._works: list[DueWork] = []
        self._letters_seen = 0

    @property
    def store(self) -> EventStore:
        """The service's log."""
        return self._parts.store

    @property
    def recorded(self) -> tuple[RecordedEvent, ...]:
        """Everything in the log, in order, as it is stored: personal data is sealed."""
        return self._parts.log.events

    @property
    def events(self) -> tuple[Event, ...]:
        """The same as typed events."""
        return self._typed(self.recorded)

    @property
    def dead_letters(self) -> tuple[DeadLetter, ...]:
        """What handlers gave up on."""
        return tuple(self._parts.effects.letters)

    def stream(self, stream_name: str) -> tuple[Event, ...]:
        """The typed events of one stream."""
        return self._typed([recorded for recorded in self.recorded if recorded.stream_name == stream_name])

    def _typed(self, recorded: Sequence[RecordedEvent]) -> tuple[Event, ...]:
        registry = self._service.events.registry
        return tuple(registry.decode(event) for event in self._parts.keys.open(recorded))

    def put(self, topic: str, value: bytes | None, *, key: bytes | None = None, headers: Sequence[tuple[str, bytes]] = ()) -> None:
        """Let another producer write a record into a topic, for handlers of `on_topic`; the same key goes to the same partition."""
        number = 0 if key is None else partition_of(key, self._parts.topics.partition_count)
        timestamp = int(self._parts.clock.now().timestamp() * 1000)
        self._parts.topics.put(Partition(topic, number), key=key, value=value, headers=headers, timestamp=timestamp)

    async def settle(self, *, timeout_seconds: float = SETTLE_SECONDS, allow_dead_letters: bool = False) -> None:
        """Return once every handler has had every event, those that other handlers appended as well.

        Raises:
            HandlerFailed: a handler gave up on a message since the last call; a note has its traceback. Not with `allow_dead_letters`.
            AssertionError: handlers were not done in time.
        """
        await eventually(self._is_settled, timeout_seconds)
        new_letters, self._letters_seen = self.dead_letters[self._letters_seen :], len(self.dead_letters)
        if new_letters and not allow_dead_letters:
            letter = new_letters[0]
            failure = HandlerFailed(
                f"the handler {letter.handler_name} gave up on {letter.event_type} of {letter.stream_name!r}: "
                f"{letter.error_type}: {letter.error_message}"
            )
            failure.add_note(letter.traceback)
            raise failure

    async def _is_settled(self) -> bool:
        for worker in self._workers:
            if worker.done():
                # Nothing but its own failure ends it.
                await worker
        # Before and after: what was due may send what handlers then take, and a handler may plan what is due at once.
        if await self._is_something_due():
            return False
        async with self._parts.effects.transaction():
            # A turn of its own: nobody is in the middle of a commit, with the position moved and the appends yet to come.
            is_handled = await self._is_everything_handled()
        return is_handled and not await self._is_something_due()

    async def _is_something_due(self) -> bool:
        moments = [await work.seconds_to_next() for work in self._works]
        return any(seconds is not None and seconds <= 0 for seconds in moments)

    async def _is_everything_handled(self) -> bool:
        topics = self._parts.topics
        await topics.relay()
        if not self._service.subscriptions:
            return True
        for partition in topics.partitions(self._service.subscriptions.topics):
            position = self._parts.effects.position(self._service.name, partition)
            if position is None or position.next_offset < topics.range_of(partition).end:
                return False
        return True

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Give the events to the handlers, and do what is due, while the block runs."""
        parts, service = self._parts, self._service
        self._works = [DueMessages(parts.scheduled, parts.store, parts.effects)]
        if service.schedules:
            self._works.append(DueSchedules(service.name, service.schedules, parts.schedules, parts.effects))
        if service.choreography:
            self._works.append(SagaDeadlines(service.choreography, parts.effects))
        clockwork = Clockwork(*self._works, poll_seconds_max=_DEADLINE_POLL_SECONDS)
        with service.choreography.kept_in(parts.sagas, clock=parts.clock):
            self._start(clockwork.run(), "clockwork")
            self._start(parts.requests.run(), "replies")
            if service.subscriptions:
                self._start(self._consumer().run(), "consumer")
            try:
                yield
            finally:
                for task in self._workers:
                    task.cancel()
                await asyncio.wait(self._workers)
                self._workers.clear()

    def _start(self, worker: Coroutine[Any, Any, None], name: str) -> None:
        self._workers.append(asyncio.create_task(worker, name=f"headwater in memory {self._service.name}: {name}"))

    def _consumer(self) -> Consumer:
        parts = self._parts
        return Consumer(
            group=self._service.name,
            subscriptions=self._service.subscriptions,
            source=MemorySource(parts.topics),
            effects=parts.effects,
            # With a board of its own, as another process has.
            values=AvroDecoder(MemorySchemaBoard(parts.board.topic)),
            publisher=parts.publisher,
            registry=self._service.events.registry,
            personal=parts.personal,
            retry_policy=_RETRY_POLICY,
            limits=_LIMITS,
        )


@asynccontextmanager
async def memory_service(service: Service, *, clock: Clock = SYSTEM_CLOCK) -> AsyncGenerator[MemoryService]:
    """The service, open in memory: its store, its running handlers, its read models.

    Inside, the service works as ever, and its handlers run as they do beside Kafka: in batches, in order per stream, with retries and dead letters,
    effects and appends together or not at all. `await memory.settle()` waits until they are done.

    Args:
        clock: when events are recorded, and when deadlines of sagas pass.
    Raises:
        UsageError: the service is open already.
        SchemaError: a registered event class cannot be written as Avro; the message names class and field.
    """
    if service._parts is not None:  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - this takes the place of the real parts
        raise UsageError(f"the service {service.name!r} is open already")
    parts = MemoryParts(service, clock)
    service._parts = cast("Any", parts)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - as above
    memory = MemoryService(service, parts)
    try:
        async with memory.running():
            yield memory
    finally:
        await parts.tail.close()
        service._parts = None  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - as above


def _nobody_to_wake() -> None:
    """Sources in memory look by themselves."""
