"""Short cuts never change what is decided: cache and snapshots, in any combination, through anything that happens to the log."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.eventstore import Decider, Decision, Snapshots, StreamCache, decide
from headwater.messages import ANY, Event, NewEvent
from headwater.testing import MemoryEventStore, MemorySnapshotStore, SeededRandomness
from headwater.testing.conformance.deciding import REGISTRY, SUM, Add, Added, Sum

STREAMS = ("conformance-1", "conformance-2", "conformance-3")

streams = st.sampled_from(STREAMS)
steps = st.one_of(
    st.tuples(st.just("decide"), streams, st.integers(0, 4), st.booleans()),
    st.tuples(st.just("append"), streams, st.integers(1, 9)),
    st.tuples(st.just("repeat"), st.integers(0, 30)),
    st.tuples(st.just("restart")),
    st.tuples(st.just("deploy"), st.sampled_from([1, 2])),
    st.tuples(st.just("lose snapshots")),
    st.tuples(st.just("restore"), streams, st.integers(0, 10)),
)


@dataclass
class Done:
    """A decision that was stored, and how it can be repeated."""

    stream_name: str
    command: Add
    command_id: UUID
    decision: Decision[Sum]


class World:
    """A process with a cache, beside a log and its snapshots, and the whole truth folded anew each time."""

    def __init__(self, every: int, streams_max: int, with_cache: bool, with_snapshots: bool) -> None:
        self.store = MemoryEventStore()
        self.snapshots = MemorySnapshotStore() if with_snapshots else None
        self.streams_max, self.with_cache, self.every = streams_max, with_cache, every
        self.randomness = SeededRandomness()
        self.done: list[Done] = []
        self.restart()
        self.deploy(1)

    def restart(self) -> None:
        self.cache = StreamCache(streams_max=self.streams_max) if self.with_cache else None

    def deploy(self, version: int) -> None:
        """Another version of the code, in another process."""
        sign = 1 if version == 1 else -1

        def evolve(state: Sum, event: Event) -> Sum:
            assert isinstance(event, Added)
            return Sum(state.total + sign * event.amount, (*state.notes, event.note))

        def check_and_decide(command: Add, state: Sum) -> list[Event]:
            self.seen = state
            return list(SUM.decide(command, state))

        self.decider = Decider(Sum(), check_and_decide, evolve, name="sum", snapshots=Snapshots(every=self.every, version=version))
        self.done = [replace(done, decision=replace(done.decision, state=None)) for done in self.done]
        self.restart()

    async def fold(self, stream_name: str) -> Sum:
        state = Sum()
        async for recorded in self.store.read_stream(stream_name):
            state = self.decider.evolve(state, REGISTRY.decode(recorded))
        return state

    async def decide(self, stream_name: str, step_count: int, with_id: bool) -> None:
        before = await self.fold(stream_name)
        command = Add(step_count, f"note {len(self.done)}")
        command_id = self.randomness.uuid7() if with_id else None
        decision = await self._decide(stream_name, command, command_id)
        assert self.seen == before
        assert decision.state == await self.fold(stream_name)
        if command_id is not None and decision.events:
            self.done.append(Done(stream_name, command, command_id, decision))

    async def repeat(self, which: int) -> None:
        if not self.done:
            return
        done = self.done[which % len(self.done)]
        length = len(self.store.events)
        again = await self._decide(done.stream_name, done.command, done.command_id)
        assert again == (done.decision if done.decision.state is not None else replace(done.decision, state=again.state))
        assert len(self.store.events) == length

    async def restore(self, stream_name: str, kept: int) -> None:
        """The log as a backup had it: one stream without its tail, under the feet of the process."""
        older = MemoryEventStore()
        seen: dict[str, int] = {}
        for event in self.store.events:
            seen[event.stream_name] = seen.get(event.stream_name, 0) + 1
            if event.stream_name != stream_name or seen[event.stream_name] <= kept:
                copied = NewEvent(event.type, event.data, event_id=event.event_id, metadata=event.metadata)
                await older.append(event.stream_name, [copied], expected_version=ANY)
        self.store = older
        # Positions moved, and what was decided may be gone.
        self.done = []

    async def _decide(self, stream_name: str, command: Add, command_id: UUID | None) -> Decision[Sum]:
        return await decide(
            self.store, REGISTRY, self.decider, stream_name, command, command_id=command_id, snapshots=self.snapshots, cache=self.cache
        )


@settings(max_examples=200, deadline=None)
@given(
    taken=st.lists(steps, max_size=40),
    every=st.integers(1, 7),
    streams_max=st.integers(1, 3),
    with_cache=st.booleans(),
    with_snapshots=st.booleans(),
)
def test_decision_rests_on_the_fold_of_the_whole_stream(
    taken: list[tuple], every: int, streams_max: int, with_cache: bool, with_snapshots: bool
) -> None:
    async def play() -> None:
        world = World(every, streams_max, with_cache, with_snapshots)
        for name, *arguments in taken:
            match name:
                case "decide":
                    await world.decide(*arguments)
                case "append":
                    await world.store.append(arguments[0], [Added(amount=1)] * arguments[1], expected_version=ANY)
                case "repeat":
                    await world.repeat(*arguments)
                case "restart":
                    world.restart()
                case "deploy":
                    world.deploy(*arguments)
                case "lose snapshots" if world.snapshots is not None:
                    world.snapshots = MemorySnapshotStore()
                case "restore":
                    await world.restore(*arguments)

    asyncio.run(play())


@settings(max_examples=40, deadline=None)
@given(
    callers=st.lists(st.tuples(st.integers(0, 2), st.sampled_from(STREAMS[:2]), st.integers(1, 3)), min_size=2, max_size=8),
    every=st.integers(1, 3),
    with_cache=st.booleans(),
)
def test_callers_at_once_count_each_command_once(callers: list[tuple[int, str, int]], every: int, with_cache: bool) -> None:
    """Commands of the same number are the same command; its callers get the same decision, whoever else decides meanwhile."""
    randomness = SeededRandomness()
    ids = {(number, stream): randomness.uuid7() for number in range(3) for stream in STREAMS}

    async def play() -> None:
        store, snapshots = MemoryEventStore(), MemorySnapshotStore()
        cache = StreamCache(streams_max=1) if with_cache else None
        decider = replace(SUM, snapshots=Snapshots(every=every))
        decisions = await asyncio.gather(
            *(
                decide(store, REGISTRY, decider, stream, Add(size), command_id=ids[number, stream], snapshots=snapshots, cache=cache)
                for number, stream, size in callers
            )
        )
        by_command: dict[UUID, Decision[Sum]] = {}
        for (number, stream, _), decision in zip(callers, decisions, strict=True):
            assert by_command.setdefault(ids[number, stream], decision) == decision
            assert decision.result is not None
            assert decision.state.total == decision.result.version
        assert len(store.events) == sum(len(decision.events) for decision in by_command.values())

    asyncio.run(play())
