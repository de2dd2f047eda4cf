"""A whole service in memory: its store, its handlers, its read models, and no server."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final, Self, cast, overload

from headwater.bus import Consumer, DeadLetter, ParkedKey, Requests
from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.errors import HandlerFailed, UsageError
from headwater.eventstore import EventStore, LogTail, PersonalEventStore, WatchedEventStore
from headwater.kafka import Partition, partition_of
from headwater.messages import ANY, Event, RecordedEvent
from headwater.outbox import Publisher
from headwater.privacy import PersonalData
from headwater.schemas import AvroDecoder
from headwater.service import Service
from headwater.testing.chaos import Chaos, ChaosCounts, Disturber, SeededDisturber
from headwater.testing.handler_story import HandlerStory
from headwater.testing.memory_bus import PARTITION_COUNT_DEFAULT, MemoryReplySource, MemoryTopics
from headwater.testing.memory_effects import MemoryDeadLetters
from headwater.testing.memory_keys import MemorySubjectKeys
from headwater.testing.memory_projections import MemoryReadModels
from headwater.testing.memory_sagas import MemorySagaEffects, MemorySagaStore
from headwater.testing.memory_scheduled import MemoryScheduledMessages, MemorySchedules
from headwater.testing.memory_schemas import MemorySchemaBoard, MemorySchemas
from headwater.testing.memory_snapshots import MemorySnapshotStore
from headwater.testing.memory_store import MemoryEventStore
from headwater.testing.memory_workers import MemoryWorkers
from headwater.testing.time import TurnClock
from headwater.testing.waiting import eventually

SETTLE_SECONDS: Final = 5.0
"""How long handlers may take until a test calls it stuck."""
CHAOS_SETTLE_SECONDS: Final = 20.0
"""The same where they are disturbed."""
_LOOK_SECONDS: Final = 0.01


class MemoryParts:
    """What a service has while it is open, in memory."""

    def __init__(self, service: Service, clock: Clock, partition_count: int = PARTITION_COUNT_DEFAULT) -> None:
        registry = service.events.registry
        self.clock = clock
        self.log = MemoryEventStore(clock=clock)
        self.board = MemorySchemaBoard()
        self.topics = MemoryTopics(self.log, partition_count=partition_count, values=service.value_encoder(MemorySchemas(), self.board))
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
        self.supervisor = self.relay = None
        self.consumer: Consumer | None = None
        self.subscriptions = service.subscriptions
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
        self._workers = MemoryWorkers(service, parts)
        self._turns = TurnClock()
        self._disturber: Disturber | None = None
        self._letters_seen = 0
        self._story: HandlerStory | None = None

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

    @property
    def clock(self) -> Clock:
        """The clock that it was given."""
        return self._parts.clock

    @property
    def chaos(self) -> ChaosCounts:
        """What went wrong on purpose so far; all zero without chaos."""
        return ChaosCounts() if self._disturber is None else self._disturber.counts

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

    async def settle(self, *, timeout_seconds: float | None = None, allow_dead_letters: bool = False) -> None:
        """Return once every handler has had every event, those that other handlers appended as well.

        Args:
            timeout_seconds: by default 5, under chaos 20.
        Raises:
            HandlerFailed: a handler gave up on a message since the last call; a note has its traceback. Not with `allow_dead_letters`.
            AssertionError: handlers were not done in time.
        """
        if self._disturber is None:
            await eventually(self._is_settled, SETTLE_SECONDS if timeout_seconds is None else timeout_seconds)
        else:
            await self._settle_disturbed(CHAOS_SETTLE_SECONDS if timeout_seconds is None else timeout_seconds)
        new_letters, self._letters_seen = self.dead_letters[self._letters_seen :], len(self.dead_letters)
        if new_letters and not allow_dead_letters:
            letter = new_letters[0]
            failure = HandlerFailed(
                f"the handler {letter.handler_name} gave up on {letter.event_type} of {letter.stream_name!r}: "
                f"{letter.error_type}: {letter.error_message}"
            )
            failure.add_note(letter.traceback)
            raise failure

    async def _settle_disturbed(self, timeout_seconds: float) -> None:
        """In real seconds, looking in between on the clock of the turns, so that looking comes at the same moments each time."""
        give_up_at = SYSTEM_CLOCK.monotonic() + timeout_seconds
        # The position moves before its commit is through, and what goes wrong after a commit is part of the story.
        while not await self._is_settled() or self._parts.effects.is_busy:
            if SYSTEM_CLOCK.monotonic() > give_up_at:
                raise AssertionError(f"handlers were not done within {timeout_seconds} s, after {self.chaos}")
            await self._turns.sleep(_LOOK_SECONDS)

    async def _is_settled(self) -> bool:
        await self._workers.require_alive()
        # Before and after: what was due may send what handlers then take, and a handler may plan what is due at once.
        if await self._is_something_due():
            return False
        async with self._parts.effects.transaction():
            # A turn of its own: nobody is in the middle of a commit, with the position moved and the appends yet to come.
            is_handled = await self._is_everything_handled()
        return is_handled and not await self._is_something_due()

    async def _is_something_due(self) -> bool:
        moments = [await work.seconds_to_next() for work in self._workers.works]
        return any(seconds is not None and seconds <= 0 for seconds in moments)

    async def _is_everything_handled(self) -> bool:
        topics = self._parts.topics
        await topics.relay()
        if any(not row.state.is_stopped for row in self._parts.effects.parking.keys.values()):
            return False
        if not self._service.subscriptions:
            return True
        for partition in topics.partitions(self._service.subscriptions.topics):
            position = self._parts.effects.position(self._service.name, partition)
            if position is None or position.next_offset < topics.range_of(partition).end:
                return False
        return True

    # -- given, when, then ---------------------------------------------------------------------------------------------

    async def given(self, stream_name: str, *events: Event) -> Self:
        """These events happened, and everything that they lead to.

        Raises:
            HandlerFailed: a handler gave up on one.
        """
        await self._parts.store.append(stream_name, events, expected_version=ANY)
        await self.settle()
        self._story = None
        return self

    async def when(self, stream_name: str, *events: Event) -> Self:
        """These happen now; returns when handlers are done. What they appended, and what they gave up on, `then` tells."""
        await self.settle(allow_dead_letters=True)
        log_length, letter_count = len(self.recorded), len(self.dead_letters)
        result = await self._parts.store.append(stream_name, events, expected_version=ANY)
        await self.settle(allow_dead_letters=True)
        given = range(result.version - len(events) + 1, result.version + 1)
        appended = [one for one in self.recorded[log_length:] if one.stream_name != stream_name or one.version not in given]
        typed = self._typed(appended)
        self._story = HandlerStory(
            tuple((recorded.stream_name, event) for recorded, event in zip(appended, typed, strict=True)), self.dead_letters[letter_count:]
        )
        return self

    @overload
    def then(self, stream_name: str, /, *events: Event) -> Self: ...
    @overload
    def then(self, /, *events: Event) -> Self: ...
    def then(self, /, *expected: str | Event) -> Self:
        """Handlers appended exactly these events since `when`, in this order per stream; with a stream's name first, to that stream.

        Raises:
            AssertionError: they appended others, or one of them gave up.
        """
        stream_name = expected[0] if expected and isinstance(expected[0], str) else None
        self._told().require_events([event for event in expected if not isinstance(event, str)], stream_name)
        return self

    def then_nothing(self) -> Self:
        """Handlers appended nothing since `when`, and none of them gave up.

        Raises:
            AssertionError: one did.
        """
        self._told().require_events([], None)
        return self

    def then_dead_letter(self, *, match: str = "") -> Self:
        """A handler gave up since `when`, with an error whose text holds `match`; `then` may tell the rest.

        Raises:
            AssertionError: none did, or with another error.
        """
        self._told().require_dead_letter(match)
        return self

    def _told(self) -> HandlerStory:
        if self._story is None:
            raise UsageError('nothing happened yet: write `await memory.when("order-1", OrderCancelled(…))` before `memory.then(…)`')
        return self._story

    # -- its life ------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(
        self, disturb: Callable[[MemoryParts, Clock], Disturber] | None = None, *, seed: int = 0, members: int = 1
    ) -> AsyncGenerator[None]:
        """Give the events to the handlers, and do what is due, while the block runs."""
        if disturb is not None:
            self._disturber = disturb(self._parts, self._turns)
        with self._service.choreography.kept_in(self._parts.sagas, clock=self._parts.clock):
            self._workers.start(self._disturber, seed=seed, members=members, turns=self._turns)
            try:
                yield
            finally:
                await self._workers.stop()


@asynccontextmanager
async def memory_service(
    service: Service, *, clock: Clock = SYSTEM_CLOCK, chaos: Chaos | None = None, provided: Mapping[type, object] | None = None
) -> AsyncGenerator[MemoryService]:
    """The service, open in memory: its store, its running handlers, its read models.

    Inside, the service works as ever, and its handlers run as they do beside Kafka: in batches, in order per stream, with retries and dead letters,
    effects and appends together or not at all. `await memory.settle()` waits until they are done.

    Args:
        clock: when events are recorded, and when deadlines of sagas pass.
        provided: what handlers are given, by class, in place of what the service's providers make.
        chaos: let it go as badly as the contract allows: `chaos=Chaos(seed=7)`. The same seed goes the same way, as far as handlers wait for nothing
            but Headwater.
    Raises:
        UsageError: the service is open already, or a handler needs what nobody provides.
        SchemaError: a registered event class cannot be written as Avro; the message names class and field.
    """
    if chaos is None:
        async with opened(service, clock, provided=provided) as memory, memory.running():
            yield memory
        return

    def disturb(parts: MemoryParts, turns: Clock) -> Disturber:
        return SeededDisturber(chaos, service.name, parts.effects, turns)

    async with (
        opened(service, clock, chaos.partition_count, provided) as memory,
        memory.running(disturb, seed=chaos.seed, members=chaos.members),
    ):
        yield memory


@asynccontextmanager
async def opened(
    service: Service, clock: Clock, partition_count: int = PARTITION_COUNT_DEFAULT, provided: Mapping[type, object] | None = None
) -> AsyncGenerator[MemoryService]:
    """The service open in memory, with nothing running yet."""
    if service._parts is not None:  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - this takes the place of the real parts
        raise UsageError(f"the service {service.name!r} is open already")
    parts = MemoryParts(service, clock, partition_count)
    service._parts = cast("Any", parts)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - as above
    try:
        async with service.surroundings.around(service.subscriptions, provided) as parts.subscriptions:
            yield MemoryService(service, parts)
    finally:
        await parts.tail.close()
        service._parts = None  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - as above


def _nobody_to_wake() -> None:
    """Sources in memory look by themselves."""
