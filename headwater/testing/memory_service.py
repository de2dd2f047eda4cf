"""A whole service in memory: its store, its handlers, its read models, and no server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final, cast

from headwater.bus import Consumer, ConsumerLimits, DeadLetter, DeadLetterIt, ParkedKey, RetryPolicy
from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.errors import HandlerFailed, UsageError
from headwater.eventstore import EventStore, LogTail, PersonalEventStore, WatchedEventStore
from headwater.messages import Event, RecordedEvent
from headwater.outbox import Publisher
from headwater.privacy import PersonalData
from headwater.sagas import DeadlineWorker
from headwater.schemas import AvroDecoder
from headwater.service import Service
from headwater.testing.memory_bus import MemorySource, MemoryTopics
from headwater.testing.memory_effects import MemoryDeadLetters
from headwater.testing.memory_keys import MemorySubjectKeys
from headwater.testing.memory_projections import MemoryReadModels
from headwater.testing.memory_sagas import MemorySagaEffects, MemorySagaStore
from headwater.testing.memory_schemas import MemorySchemaBoard, MemorySchemas
from headwater.testing.memory_snapshots import MemorySnapshotStore
from headwater.testing.memory_store import MemoryEventStore
from headwater.testing.waiting import eventually

SETTLE_SECONDS: Final = 5.0
"""How long handlers may take until a test calls it stuck."""
_RETRY_POLICY: Final = RetryPolicy(attempts_max=3, first_delay_seconds=0.001, delay_factor=1.0, jitter=0.0, then=DeadLetterIt())
_LIMITS: Final = ConsumerLimits(idle_seconds=0.002, retry_delay_seconds_max=0.002)
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
        self.publisher = Publisher(self.store, registry)
        self.read_models = MemoryReadModels(self.store, registry)
        self.dead_letters: MemoryDeadLetters = self.effects.dead_letters
        self.snapshots = MemorySnapshotStore()
        self.stream_cache = service.new_stream_cache(clock=clock)
        self.kafka: str | None = None

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
        self._worker: asyncio.Task[None] | None = None
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

    @property
    def parked_keys(self) -> tuple[ParkedKey, ...]:
        """What is parked now; `settle` leaves only keys that stay stopped until a person decides."""
        return tuple(replace(row.state, message_count=len(row.records)) for row in self._parts.effects.parking.keys.values())

    def stream(self, stream_name: str) -> tuple[Event, ...]:
        """The typed events of one stream."""
        return self._typed([recorded for recorded in self.recorded if recorded.stream_name == stream_name])

    def _typed(self, recorded: Sequence[RecordedEvent]) -> tuple[Event, ...]:
        registry = self._service.events.registry
        return tuple(registry.decode(event) for event in self._parts.keys.open(recorded))

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
        if self._worker is None:
            return True
        if self._worker.done():
            # Nothing but its own failure ends it.
            await self._worker
        # Before and after: a deadline may send what handlers then take, and a handler may set a deadline that is due at once.
        return not await self._is_deadline_due() and await self._is_everything_handled() and not await self._is_deadline_due()

    async def _is_deadline_due(self) -> bool:
        async with self._parts.effects.transaction() as transaction:
            seconds = await self._service.choreography.seconds_to_next_deadline(transaction)
        return seconds is not None and seconds <= 0

    async def _is_everything_handled(self) -> bool:
        topics = self._parts.topics
        await topics.relay()
        if any(not row.state.is_stopped for row in self._parts.effects.parking.keys.values()):
            return False
        for partition in topics.partitions(self._service.subscriptions.topics):
            position = self._parts.effects.position(self._service.name, partition)
            if position is None or position.next_offset < topics.range_of(partition).end:
                return False
        return True

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Give the events to the handlers while the block runs."""
        if not self._service.subscriptions:
            yield
            return
        parts = self._parts
        consumer = Consumer(
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
            copy_dead_letters_to=self._service.copy_dead_letters_to,
            limits=_LIMITS,
        )
        deadlines = DeadlineWorker(self._service.choreography, parts.effects, poll_seconds_max=_DEADLINE_POLL_SECONDS)
        with self._service.choreography.kept_in(parts.sagas, clock=parts.clock):
            self._worker = asyncio.create_task(consumer.run(), name=f"headwater in memory {self._service.name}")
            tasks = [self._worker]
            if self._service.choreography:
                tasks.append(asyncio.create_task(deadlines.run(), name=f"headwater in memory {self._service.name}: deadlines"))
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)


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
