"""What the suite of the bus stands on: one source with its store, groups of handlers on it, and members that can be made to crash."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final, cast

from headwater.bus import (
    Consumer,
    ConsumerLimits,
    Context,
    DeadLetter,
    DeadLetterIt,
    EffectStore,
    EffectTransaction,
    MessageSource,
    Move,
    PartitionPosition,
    RetryPolicy,
    Subscriptions,
)
from headwater.errors import StorageUnavailable
from headwater.eventstore import EventStore
from headwater.kafka import Partition
from headwater.messages import ANY, AppendResult, Event, ExpectedVersion, NewEvent, RecordedEvent, prepare
from headwater.testing.waiting import eventually

WAIT_SECONDS: Final = 30.0
APPENDS_MAX: Final = 10
"""How often an append is tried when the store was cut off."""
QUICK: Final = RetryPolicy(attempts_max=3, first_delay_seconds=0.01, delay_factor=1.0, jitter=0.0, then=DeadLetterIt())
LIMITS: Final = ConsumerLimits(batch_size_max=20, idle_seconds=0.02, reclaim_seconds=0.2, reconnect_seconds_max=0.2)


async def _nothing() -> None:
    """What belongs to a source that needs nothing beside it."""


@dataclass(frozen=True)
class BusBed:
    """One way to run the bus. The store's log is new, or its categories are."""

    category: str
    """Of the events that are handled; `<category>done` is that of the effects."""
    store: EventStore
    """Where events are appended, and effects, too."""
    effects: EffectStore
    new_source: Callable[[str], MessageSource]
    """Another member's source, for this group."""
    dead_letters: Callable[[str], Awaitable[Sequence[DeadLetter]]]
    """What a group gave up on, oldest first."""
    usurp: Callable[[str, Partition], Awaitable[None]]
    """Claim a group's partition as another member would."""
    interrupt: Callable[[], Awaitable[None]] = field(default=_nothing)
    """Cut everybody off from the store, once."""


class Group:
    """One group of handlers; its effects are events in the log."""

    def __init__(self, bed: BusBed, name: str = "one") -> None:
        self.bed, self.name = bed, f"{bed.category}.{name}"
        self.subscriptions = Subscriptions()
        self.placed = self._event_class("Placed", bed.category)
        self.cancelled = self._event_class("Cancelled", bed.category)
        self.done = self._event_class("Done", f"{bed.category}done")

    @staticmethod
    def _event_class(name: str, category: str) -> type[Any]:
        return type(name, (Event,), {"__annotations__": {"number": int}, "__module__": __name__}, category=category)

    async def place(self, stream: object, *numbers: int) -> None:
        """Append events with these numbers to a stream, in one append; again, with the same ids, where nobody knows whether that worked."""
        name = f"{self.bed.category}-{stream}"
        events = prepare([self.placed(number=number) for number in numbers], stream_name=name)
        for _ in range(APPENDS_MAX):
            with suppress(StorageUnavailable):
                await self.bed.store.append(name, events, expected_version=ANY)
                return
        raise AssertionError("the store is away for good")

    async def place_raw(self, stream: object, data: str, *, event_type: str | None = None) -> None:
        """Append an event whose data need not fit its class; with a type, one that need not have a class."""
        event = NewEvent(event_type or self.placed.event_type, data)
        await self.bed.store.append(f"{self.bed.category}-{stream}", [event], expected_version=ANY)

    async def note(self, event: Any, context: Context) -> None:
        """What handlers do: append that the event was handled, to a stream for the one that it came from."""
        await self.note_number(event.number, context)

    async def note_number(self, number: int, context: Context) -> None:
        """The same for a handler that is not given a class."""
        stream = context.stream_name.partition("-")[2]
        await context.append(f"{self.bed.category}done-{self.name}.{stream}", self.done(number=number))

    def handle_all(self) -> None:
        """Note every event that was placed."""

        @self.subscriptions.on(self.placed)
        async def noting(event: Any, context: Context) -> None:
            await self.note(event, context)

    # -- what came of it ----------------------------------------------------------------------------------------------

    async def handled(self) -> dict[str, list[int]]:
        """The numbers noted for each stream, in the order of the notes."""
        numbers: dict[str, list[int]] = {}
        for event in await self.noted():
            stream = event.stream_name.removeprefix(f"{self.bed.category}done-{self.name}.")
            numbers.setdefault(stream, []).append(self.done.model_validate_json(event.data).number)
        return numbers

    async def noted(self) -> list[RecordedEvent]:
        """The notes of this group, as the log has them."""
        found: list[RecordedEvent] = []
        after = 0
        while events := (await self.bed.store.read_log(after=after)).events:
            found += [event for event in events if event.stream_name.startswith(f"{self.bed.category}done-{self.name}.")]
            after = events[-1].global_position
        return found

    async def until_handled(self, expected: Mapping[str, Sequence[int]]) -> None:
        """Wait until just this was noted."""

        async def is_handled() -> bool:
            handled = await self.handled()
            assert handled == expected
            return True

        await eventually(is_handled, WAIT_SECONDS)

    async def letters(self) -> list[DeadLetter]:
        """What the group gave up on."""
        return list(await self.bed.dead_letters(self.name))

    # -- members ------------------------------------------------------------------------------------------------------

    def member(self, *, effects: EffectStore | None = None, retry_policy: RetryPolicy = QUICK, limits: ConsumerLimits = LIMITS) -> Consumer:
        return Consumer(
            group=self.name,
            subscriptions=self.subscriptions,
            source=self.bed.new_source(self.name),
            effects=effects or self.bed.effects,
            retry_policy=retry_policy,
            limits=limits,
        )

    @asynccontextmanager
    async def running(self, **options: Any) -> AsyncGenerator[Consumer]:
        """A member at work until the block ends; it must not end by itself."""
        async with working(self.member(**options)) as member:
            yield member


@asynccontextmanager
async def working(member: Consumer) -> AsyncGenerator[Consumer]:
    """Run a member beside the block; it must not end by itself."""
    task = asyncio.create_task(member.run())
    try:
        yield member
        assert not task.done(), "the member ended by itself"
    finally:
        await stopped(task)


async def stopped(task: asyncio.Task[None]) -> None:
    """End a member as Ctrl-C does; what it raised by itself is raised."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


class Crash(BaseException):
    """The process ends here."""


CRASH_POINTS: Final = ("claim", "begin", "append", "appended", "advance", "advanced", "committed")
"""Where a member can be crashed: before its first claim, around what it does in a transaction, and before it hears of the commit."""


def crashing(effects: EffectStore, point: str) -> EffectStore:
    """The same store for a member that crashes at one point."""
    return cast("EffectStore", _CrashingEffects(effects, point))


class _CrashingEffects:
    def __init__(self, effects: EffectStore, point: str) -> None:
        self._effects, self._point = effects, point

    def __getattr__(self, name: str) -> Any:
        return getattr(self._effects, name)

    def reach(self, point: str) -> None:
        """Crash, if this is the point."""
        if point == self._point:
            raise Crash(point)

    async def claim(self, group: str, partition: Partition) -> PartitionPosition:
        claimed = await self._effects.claim(group, partition)
        self.reach("claim")
        return claimed

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[EffectTransaction]:
        self.reach("begin")
        async with self._effects.transaction() as transaction:
            yield cast("EffectTransaction", _CrashingTransaction(self, transaction))
        self.reach("committed")


class _CrashingTransaction:
    def __init__(self, effects: _CrashingEffects, transaction: EffectTransaction) -> None:
        self._effects, self._transaction = effects, transaction

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transaction, name)

    async def append(self, stream_name: str, events: Sequence[Event | NewEvent], *, expected_version: ExpectedVersion) -> AppendResult:
        self._effects.reach("append")
        result = await self._transaction.append(stream_name, events, expected_version=expected_version)
        self._effects.reach("appended")
        return result

    async def advance(self, group: str, moves: Sequence[Move]) -> frozenset[Partition]:
        self._effects.reach("advance")
        lost = await self._transaction.advance(group, moves)
        self._effects.reach("advanced")
        return lost
