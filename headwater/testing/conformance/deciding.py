"""What the decide loop promises over every `EventStore`: commands that count once, and short cuts that never change what is decided."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import UUID, uuid5

import pytest

from headwater.errors import DuplicateEvent, UsageError
from headwater.eventstore import (
    COMMAND_ID,
    Decider,
    Decision,
    EventStore,
    Snapshot,
    Snapshots,
    SnapshotStore,
    StreamCache,
    WatchedEventStore,
    decide,
    event_id_of_command,
)
from headwater.messages import ANY, AppendResult, Event, EventRegistry, RecordedEvent
from headwater.randomness import uuid7

STREAM: Final = "conformance-1"
EVERY: Final = 5


class Added(Event, category="conformance"):
    """Something was added; `note` says by whom."""

    amount: int
    note: str = ""


@dataclass(frozen=True)
class Sum:
    """A state that tells which events it was made of."""

    total: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Add:
    """Add this much, in steps of one; as many steps more as the sum is odd, so that another state leads to other events."""

    steps: int = 1
    note: str = ""


def _decide(command: Add, state: Sum) -> list[Event]:
    return [Added(amount=1, note=command.note) for _ in range(command.steps + state.total % 2)] if command.steps else []


def _evolve(state: Sum, event: Event) -> Sum:
    assert isinstance(event, Added), "no other events are here"
    return Sum(state.total + event.amount, (*state.notes, event.note))


SUM: Final = Decider(initial_state=Sum(), decide=_decide, evolve=_evolve, name="sum", snapshots=Snapshots(every=EVERY))
REGISTRY: Final = EventRegistry([Added])


class DecideConformance:
    """Inherit, and give fixtures `store` and `snapshots` with an empty event store and snapshot store; every test must pass."""

    pytestmark = pytest.mark.asyncio

    # -- events by id

    async def test_event_is_found_by_its_id(self, store: EventStore) -> None:
        await _add_by_others(store, 2)
        for event in await _stream(store):
            assert await store.find_event(event.event_id) == event
        assert await store.find_event(uuid7()) is None

    # -- commands that come more than once

    async def test_repeated_command_gets_the_first_decision_and_stores_nothing(self, store: EventStore) -> None:
        command_id = uuid7()
        first = await decide(store, REGISTRY, SUM, STREAM, Add(2, "a"), command_id=command_id)
        assert (first.state, first.events) == (Sum(2, ("a", "a")), (Added(amount=1, note="a"),) * 2)
        assert await decide(store, REGISTRY, SUM, STREAM, Add(2, "a"), command_id=command_id) == first
        assert await store.stream_version(STREAM) == 2

    async def test_repeated_command_gets_the_state_of_then_whatever_came_since(self, store: EventStore, snapshots: SnapshotStore) -> None:
        cache, command_id = StreamCache(), uuid7()
        await _add_by_others(store, 3)
        first = await decide(store, REGISTRY, SUM, STREAM, Add(1, "a"), command_id=command_id)
        await _add_by_others(store, 3 * EVERY)
        for _ in range(3):
            again = await decide(store, REGISTRY, SUM, STREAM, Add(1, "a"), command_id=command_id, snapshots=snapshots, cache=cache)
            assert again == first
            await decide(store, REGISTRY, SUM, STREAM, Add(1, "b"), snapshots=snapshots, cache=cache)

    async def test_repeated_command_is_recognised_before_it_is_decided(self, store: EventStore) -> None:
        """Decided anew it would be refused: it has been done."""
        once, command_id = replace(SUM, decide=_decide_once), uuid7()
        first = await decide(store, REGISTRY, once, STREAM, Add(), command_id=command_id)
        assert await decide(store, REGISTRY, once, STREAM, Add(), command_id=command_id) == first

    @pytest.mark.parametrize("steps", [1, 15, 16, 17, 32, 40])
    async def test_repeated_command_gets_all_its_events_and_no_others(self, store: EventStore, steps: int) -> None:
        await _add_by_others(store, 2)
        command_id = uuid7()
        first = await decide(store, REGISTRY, SUM, STREAM, Add(steps, "mine"), command_id=command_id)
        assert await decide(store, REGISTRY, SUM, STREAM, Add(steps, "mine"), command_id=command_id) == first
        await decide(store, REGISTRY, SUM, STREAM, Add(20, "next"), command_id=uuid7())
        assert await decide(store, REGISTRY, SUM, STREAM, Add(steps, "mine"), command_id=command_id) == first
        assert len(first.events) == steps

    async def test_racing_callers_of_one_command_get_one_decision(self, store: EventStore, snapshots: SnapshotStore) -> None:
        """Also where what they ask for differs in detail, as two requests with one idempotency key may."""
        cache = StreamCache()
        for round_number in range(1, 6):
            command_id = uuid7()
            calls = [
                decide(store, REGISTRY, SUM, STREAM, Add(1, f"{caller}"), command_id=command_id, snapshots=snapshots, cache=cache)
                for caller in range(4)
            ]
            others = [decide(store, REGISTRY, SUM, STREAM, Add(1, "other"), snapshots=snapshots, cache=cache) for _ in range(2)]
            decisions = (await asyncio.gather(*calls, *others))[: len(calls)]
            assert decisions == [decisions[0]] * len(calls)
            stored = [event for event in await _stream(store) if event.metadata.get(COMMAND_ID) == str(command_id)]
            assert tuple(REGISTRY.decode(event) for event in stored) == decisions[0].events
            assert decisions[0].state.total == stored[-1].version, f"round {round_number}"

    @pytest.mark.parametrize("others_first", [0, 1, 2])
    async def test_twin_that_is_first_between_decision_and_append_is_believed(self, store: EventStore, others_first: int) -> None:
        """The twin saw the same state, one that leads to another number of events, or one that leads to as many elsewhere."""
        command_id = uuid7()
        twins: list[Decision[Sum]] = []

        async def overtake() -> None:
            if others_first:
                await _add_by_others(store, others_first)
            twins.append(await decide(store, REGISTRY, SUM, STREAM, Add(1, "twin"), command_id=command_id))

        decision = await decide(_Overtaken(store, overtake), REGISTRY, SUM, STREAM, Add(1, "mine"), command_id=command_id)
        assert [decision] == twins
        assert await store.stream_version(STREAM) == others_first + len(decision.events)

    async def test_twin_that_is_first_between_two_looks_is_seen(self, store: EventStore) -> None:
        """A decision on top of the twin's events would be refused, for it has been done."""
        once, command_id = replace(SUM, decide=_decide_once), uuid7()
        twins: list[Decision[Sum]] = []

        async def overtake() -> None:
            twins.append(await decide(store, REGISTRY, once, STREAM, Add(), command_id=command_id))

        overtaken = _OvertakenAfterItsFirstLook(store, overtake)
        assert [await decide(overtaken, REGISTRY, once, STREAM, Add(), command_id=command_id)] == twins

    async def test_command_of_another_stream_is_refused_and_says_what_to_do(self, store: EventStore) -> None:
        command_id = uuid7()
        await decide(store, REGISTRY, SUM, STREAM, Add(), command_id=command_id)
        with pytest.raises(DuplicateEvent, match=r"'conformance-1' before.*uuid5"):
            await decide(store, REGISTRY, SUM, "conformance-2", Add(), command_id=command_id)
        assert await store.stream_version("conformance-2") == 0
        await decide(store, REGISTRY, SUM, "conformance-2", Add(), command_id=uuid5(command_id, "conformance-2"))

    async def test_command_that_led_to_nothing_is_decided_anew(self, store: EventStore) -> None:
        command_id = uuid7()
        assert (await decide(store, REGISTRY, SUM, STREAM, Add(0), command_id=command_id)).result is None
        assert (await decide(store, REGISTRY, SUM, STREAM, Add(1), command_id=command_id)).state.total == 1

    async def test_events_name_their_command(self, store: EventStore) -> None:
        command_id = uuid7()
        await decide(store, REGISTRY, SUM, STREAM, Add(2), command_id=command_id)
        await decide(store, REGISTRY, SUM, STREAM, Add(2))
        events = await _stream(store)
        assert [event.metadata.get(COMMAND_ID) for event in events] == [str(command_id)] * 2 + [None] * 2
        assert [event.event_id for event in events[:2]] == [event_id_of_command(command_id, ordinal) for ordinal in range(2)]

    async def test_command_id_that_is_none_is_refused(self, store: EventStore) -> None:
        nonsense: Any = "00000000-0000-0000-0000-000000000001"
        with pytest.raises(UsageError, match="no UUID"):
            await decide(store, REGISTRY, SUM, STREAM, Add(), command_id=nonsense)
        assert await _stream(store) == []

    # -- snapshots

    async def test_snapshot_is_taken_by_interval_and_read_instead_of_what_is_before(
        self, store: EventStore, snapshots: SnapshotStore
    ) -> None:
        counting = _ReadCounting(store)
        taken: list[int] = []
        for number in range(1, 4 * EVERY):
            counting.read_count = 0
            decision = await decide(counting, REGISTRY, _one_by_one, STREAM, number, snapshots=snapshots)
            assert decision.state == await _fold(store)
            # The event that the snapshot rests on, and those after it.
            assert counting.read_count == number - 1 - (taken[-1] - 1 if taken else 0)
            snapshot = await snapshots.load(STREAM, "sum")
            if snapshot is not None and snapshot.version not in taken:
                taken.append(snapshot.version)
        assert taken == [EVERY, 2 * EVERY, 3 * EVERY]

    async def test_decider_without_snapshots_takes_and_reads_none(self, store: EventStore, snapshots: SnapshotStore) -> None:
        await _add_by_others(store, 3 * EVERY)
        without = replace(SUM, snapshots=None)
        await decide(store, REGISTRY, without, STREAM, Add(), snapshots=snapshots)
        assert await snapshots.load(STREAM, "sum") is None
        await snapshots.save(Snapshot(STREAM, "sum", EVERY, (await _stream(store))[EVERY - 1].event_id, _shape(), '{"total": 99}'))
        assert (await decide(store, REGISTRY, without, STREAM, Add(0), snapshots=snapshots)).state == await _fold(store)

    @pytest.mark.parametrize("changed", ["version", "class"])
    async def test_snapshot_of_another_shape_is_dropped(self, store: EventStore, snapshots: SnapshotStore, changed: str) -> None:
        await _add_by_others(store, EVERY)
        await decide(store, REGISTRY, SUM, STREAM, Add(0), snapshots=snapshots)
        before = await snapshots.load(STREAM, "sum")
        assert before is not None
        now: Decider[Any, Any]
        if changed == "version":
            now = replace(SUM, snapshots=Snapshots(every=10 * EVERY, version=2), evolve=_evolve_downwards)
        else:
            now = Decider(initial_state=0, decide=_decide_nothing, evolve=_count_down, name="sum", snapshots=Snapshots(every=10 * EVERY))
        decision = await decide(store, REGISTRY, now, STREAM, Add(0), snapshots=snapshots)
        assert decision.state == (Sum(-EVERY) if changed == "version" else -EVERY)
        assert await snapshots.load(STREAM, "sum") is None
        # And another of the new shape takes its place.
        await _add_by_others(store, 10 * EVERY)
        await decide(store, REGISTRY, now, STREAM, Add(0), snapshots=snapshots)
        after = await snapshots.load(STREAM, "sum")
        assert after is not None
        assert (after.version, after.shape != before.shape) == (11 * EVERY, True)

    @pytest.mark.parametrize("version", [3, 4, 1_000])
    async def test_snapshot_that_is_not_of_this_stream_is_dropped(self, store: EventStore, snapshots: SnapshotStore, version: int) -> None:
        """A restored backup lost the stream's tail: its end is below the snapshot, or other events have come since."""
        await _add_by_others(store, 3)
        await snapshots.save(Snapshot(STREAM, "sum", version, uuid7(), _shape(), '{"total": 99}'))
        decision = await decide(store, REGISTRY, SUM, STREAM, Add(2, "a"), snapshots=snapshots)
        assert decision.state == await _fold(store)
        assert await snapshots.load(STREAM, "sum") is None

    @pytest.mark.parametrize("state", ["", "{", '{"total": "many"}', "[]"])
    async def test_snapshot_that_cannot_be_read_is_dropped(self, store: EventStore, snapshots: SnapshotStore, state: str) -> None:
        await _add_by_others(store, 3)
        await snapshots.save(Snapshot(STREAM, "sum", 2, (await _stream(store))[1].event_id, _shape(), state))
        assert (await decide(store, REGISTRY, SUM, STREAM, Add(2), snapshots=snapshots)).state == await _fold(store)
        assert await snapshots.load(STREAM, "sum") is None

    async def test_lost_snapshot_costs_only_time(self, store: EventStore) -> None:
        await _add_by_others(store, EVERY)
        decision = await decide(store, REGISTRY, SUM, STREAM, Add(2, "a"), snapshots=_Failing())
        assert decision.state == await _fold(store)
        assert decision.result is not None

    # -- the cache

    async def test_cached_stream_is_read_from_its_last_event_on(self, store: EventStore) -> None:
        cache, counting = StreamCache(), _ReadCounting(store)
        await _add_by_others(store, 10)
        for number, read in ((11, 10), (12, 2), (13, 2)):
            counting.read_count = 0
            decision = await decide(counting, REGISTRY, _one_by_one, STREAM, number, cache=cache)
            assert (decision.state, counting.read_count) == (await _fold(store), read)
        await _add_by_others(store, 3)
        counting.read_count = 0
        assert (await decide(counting, REGISTRY, _one_by_one, STREAM, 17, cache=cache)).state == await _fold(store)
        assert counting.read_count == 5

    async def test_cache_that_others_overtook_is_refreshed(self, store: EventStore) -> None:
        cache = StreamCache()
        await decide(store, REGISTRY, SUM, STREAM, Add(2, "a"), cache=cache)

        async def overtake() -> None:
            await _add_by_others(store, 1)

        decision = await decide(_Overtaken(store, overtake), REGISTRY, SUM, STREAM, Add(1, "b"), cache=cache)
        assert decision.state == await _fold(store) == Sum(5, ("a", "a", "", "b", "b"))
        assert (await decide(store, REGISTRY, SUM, STREAM, Add(0), cache=cache)).state == await _fold(store)

    async def test_cache_of_another_log_is_not_believed(self, store: EventStore) -> None:
        """Nor one of this log from before it lost its tail."""
        cache = StreamCache()
        await _add_by_others(store, 3, "conformance-9")
        elsewhere = await decide(store, REGISTRY, SUM, "conformance-9", Add(0), cache=cache)
        folded = cache.get("conformance-9", SUM)
        assert folded is not None
        assert folded.state == elsewhere.state
        for count in (1, 2, 1):
            await _add_by_others(store, count)
            cache.drop(STREAM, SUM)
            cache.put(STREAM, SUM, folded)
            assert (await decide(store, REGISTRY, SUM, STREAM, Add(0), cache=cache)).state == await _fold(store)
            fresh = cache.get(STREAM, SUM)
            assert fresh is not None
            assert fresh.state == await _fold(store)


def _decide_once(command: Add, state: Sum) -> list[Event]:
    assert not state.total, "done already"
    return _decide(command, state)


def _evolve_downwards(state: Sum, _: Event) -> Sum:
    return Sum(state.total - 1)


def _decide_nothing(_: object, __: int) -> list[Event]:
    return []


def _count_down(state: int, _: Event) -> int:
    return state - 1


_one_by_one: Final[Decider[int, Sum]] = Decider(
    initial_state=Sum(),
    decide=lambda command, state: [Added(amount=1)] if command > state.total else [],
    evolve=_evolve,
    name="sum",
    snapshots=Snapshots(every=EVERY),
)


class _ReadCounting(WatchedEventStore):
    """Counts the events that were read from streams."""

    def __init__(self, store: EventStore) -> None:
        super().__init__(store, on_append=lambda: None)
        self.read_count = 0

    async def read_stream(self, stream_name: str, **options: Any) -> AsyncIterator[RecordedEvent]:
        async for event in super().read_stream(stream_name, **options):
            self.read_count += 1
            yield event


class _Overtaken(WatchedEventStore):
    """Lets something happen before the first append."""

    def __init__(self, store: EventStore, overtake: Callable[[], Any]) -> None:
        super().__init__(store, on_append=lambda: None)
        self._overtake: Callable[[], Any] | None = overtake

    async def append(self, stream_name: str, events: Sequence[Any], **options: Any) -> AppendResult:
        overtake, self._overtake = self._overtake, None
        if overtake is not None:
            await overtake()
        return await super().append(stream_name, events, **options)


class _OvertakenAfterItsFirstLook(WatchedEventStore):
    """Lets something happen between the first two things that are read."""

    def __init__(self, store: EventStore, overtake: Callable[[], Any]) -> None:
        super().__init__(store, on_append=lambda: None)
        self._overtake: Callable[[], Any] | None = overtake

    async def read_stream(self, stream_name: str, **options: Any) -> AsyncIterator[RecordedEvent]:
        async for event in super().read_stream(stream_name, **options):
            yield event
        await self._looked()

    async def find_event(self, event_id: UUID, **options: Any) -> RecordedEvent | None:
        found = await super().find_event(event_id, **options)
        await self._looked()
        return found

    async def _looked(self) -> None:
        overtake, self._overtake = self._overtake, None
        if overtake is not None:
            await overtake()


class _Failing:
    """A snapshot store that cannot write."""

    async def load(self, stream_name: str, decider_name: str, **_: object) -> Snapshot | None:
        return Snapshot(stream_name, decider_name, 1, uuid7(), "other", "")

    async def save(self, snapshot: Snapshot, **_: object) -> None:
        raise ConnectionError(f"the snapshot of {snapshot.stream_name} is lost")

    async def drop(self, snapshot: Snapshot, **_: object) -> None:
        raise ConnectionError(f"the snapshot of {snapshot.stream_name} stays")


def _shape() -> str:
    assert SUM.codec is not None, "it takes snapshots"
    return SUM.codec.shape


async def _add_by_others(store: EventStore, count: int, stream_name: str = STREAM) -> None:
    await store.append(stream_name, [Added(amount=1)] * count, expected_version=ANY)


async def _stream(store: EventStore) -> list[RecordedEvent]:
    return [event async for event in store.read_stream(STREAM)]


async def _fold(store: EventStore) -> Sum:
    """The whole stream folded, without any short cut."""
    state = Sum()
    for event in await _stream(store):
        state = _evolve(state, REGISTRY.decode(event))
    return state
