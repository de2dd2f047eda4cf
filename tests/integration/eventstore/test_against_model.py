"""PostgreSQL's store beside the one in memory: whatever is done to both, both answer the same (Hypothesis chooses what)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as some
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

import headwater.eventstore as eventstore
from headwater.errors import DuplicateEvent, HeadwaterError
from headwater.eventstore import PostgresEventStore
from headwater.messages import ANY, NO_STREAM, STREAM_EXISTS, AppendResult, ExpectedVersion, NewEvent, RecordedEvent
from headwater.postgres import Database
from headwater.testing import MemoryEventStore, MigratedDatabases
from tests.support import full_count

STREAMS = 4
EXAMPLES, EXAMPLES_FULL, STEPS = 25, 400, 40
SEVERAL_STREAMS = all(hasattr(store, "append_to_streams") for store in (PostgresEventStore, MemoryEventStore))
CONDITIONS = SEVERAL_STREAMS and hasattr(eventstore, "AppendCondition")

streams = some.integers(0, STREAMS - 1)
counts = some.one_of(some.integers(1, 3), some.integers(1, 40))
expectations = some.sampled_from(["any", "none", "exists", "right", "too low", "too high"])
documents = some.recursive(
    some.none()
    | some.booleans()
    | some.integers(-(10**12), 10**12)
    | some.text(some.characters(exclude_characters="\0", codec="utf-8"), max_size=8),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.sampled_from(["a", "b", "aa"]), inner, max_size=3),
    max_leaves=5,
)


class BothStores(RuleBasedStateMachine):
    """Does the same to both, and compares answers, errors and everything that can be read."""

    dsn: ClassVar[str]
    joins: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.memory = MemoryEventStore()
        self.database = Database(self.dsn, connections_max=2)
        self.appended: list[tuple[str, list[NewEvent], ExpectedVersion]] = []
        self.positions: dict[int, int] = {0: 0}
        """For each position in memory the one in PostgreSQL, which leaves holes."""
        BothStores.joins += 1
        self.prefix = f"model-{BothStores.joins}x"

    @initialize()
    def open(self) -> None:
        async def start() -> None:
            await self.database.open()
            self.real = PostgresEventStore(self.database)
            self.positions[0] = await self.real.horizon()

        self.runner.run(start())

    def teardown(self) -> None:
        self.runner.run(self.database.close())
        self.runner.close()

    # -- doing it to both

    def both(self, call: Callable[[Any], Awaitable[Any]]) -> tuple[Any, Any]:
        """What the call answers in memory and on PostgreSQL: values, or errors of the same kind with the same facts."""

        async def asked(store: Any) -> Any:
            try:
                return await call(store)
            except HeadwaterError as error:
                return error

        in_memory, real = self.runner.run(asked(self.memory)), self.runner.run(asked(self.real))
        if isinstance(in_memory, HeadwaterError) or isinstance(real, HeadwaterError):
            both = f"{in_memory!r} in memory, {real!r} on PostgreSQL"
            assert type(in_memory) is type(real), both
            facts = dict(vars(in_memory))
            if "global_position" in facts:
                facts["global_position"] = self.positions[facts["global_position"]]
            if not isinstance(in_memory, DuplicateEvent):  # which of several stored ids is named is nobody's promise
                assert facts == vars(real), both
        return in_memory, real

    def append(self, stream_name: str, events: list[NewEvent], expected: ExpectedVersion) -> None:
        in_memory, real = self.both(lambda store: store.append(stream_name, events, expected_version=expected))
        if isinstance(in_memory, AppendResult):
            self.stored(stream_name, events, expected, in_memory, real)

    def stored(
        self, stream_name: str, events: list[NewEvent], expected: ExpectedVersion, in_memory: AppendResult, real: AppendResult
    ) -> None:
        assert (in_memory.stream_name, in_memory.version) == (real.stream_name, real.version)
        self.appended.append((stream_name, events, expected))
        if in_memory.global_position not in self.positions:
            self.learn_positions()
        assert self.positions[in_memory.global_position] == real.global_position

    def learn_positions(self) -> None:
        """Which position in PostgreSQL belongs to which in memory: the events' ids tell."""
        last = max(self.positions)
        log = self.runner.run(self.real.read_log(after=self.positions[last], limit=1000))
        ours = [event for event in log.events if event.stream_name.startswith(self.prefix)]
        new = self.memory.events[last:]
        assert [event.event_id for event in ours] == [event.event_id for event in new]
        self.positions.update({m.global_position: r.global_position for m, r in zip(new, ours, strict=True)})

    def name(self, stream: int) -> str:
        return f"{self.prefix}{stream}"

    def expected(self, stream: int, kind: str) -> ExpectedVersion:
        version = self.runner.run(self.memory.stream_version(self.name(stream)))
        known: dict[str, ExpectedVersion] = {"any": ANY, "none": NO_STREAM, "exists": STREAM_EXISTS, "right": version}
        return known.get(kind, max(0, version - 1) if kind == "too low" else version + 1)

    # -- appending

    @rule(stream=streams, count=counts, kind=expectations, data=documents)
    def append_new(self, stream: int, count: int, kind: str, data: object) -> None:
        events = [NewEvent("Noted", json.dumps(data), metadata={"n": str(n)}) for n in range(count)]
        self.append(self.name(stream), events, self.expected(stream, kind))

    @precondition(lambda self: self.appended)
    @rule(data=some.data(), kind=expectations)
    def repeat(self, data: Any, kind: str) -> None:
        """The same append again, whatever it expects now: the same answer."""
        stream_name, events, expected = data.draw(some.sampled_from(self.appended))
        self.append(stream_name, events, data.draw(some.sampled_from([expected, ANY, 0, 10**6])))

    @precondition(lambda self: self.appended)
    @rule(data=some.data(), stream=streams, kind=expectations)
    def append_stored_ids_otherwise(self, data: Any, stream: int, kind: str) -> None:
        """Some ids that are stored, in another order, company or stream."""
        _, events, _ = data.draw(some.sampled_from(self.appended))
        chosen = data.draw(some.permutations([*events[:4], NewEvent("Noted", "{}")]))[: data.draw(some.integers(1, 5))]
        self.append(self.name(stream), list(chosen), self.expected(stream, kind))

    @rule(stream=streams, count=some.integers(1, 3))
    def append_one_id_twice(self, stream: int, count: int) -> None:
        event = NewEvent("Noted", "{}")
        self.append(self.name(stream), [*(NewEvent("Noted", "{}") for _ in range(count)), event, event], ANY)

    @rule(stream=streams, text=some.sampled_from(['{"a":', '{"a": "\\u0000"}', "1e200000", "", "NaN", '{"a": "\\ud800"}']))
    def append_what_cannot_be_stored(self, stream: int, text: str) -> None:
        self.append(self.name(stream), [NewEvent("Noted", "{}"), NewEvent("Noted", text)], ANY)

    @rule(work=some.lists(some.tuples(streams, some.integers(1, 3)), min_size=1, max_size=4), commits=some.booleans())
    def append_in_a_transaction(self, work: list[tuple[int, int]], commits: bool) -> None:
        """Only PostgreSQL has transactions: memory gets what was committed, append by append."""
        appends = [(self.name(stream), [NewEvent("Noted", "{}") for _ in range(count)]) for stream, count in work]

        async def transact() -> list[AppendResult]:
            results: list[AppendResult] = []
            with contextlib.suppress(_Undo):
                async with self.database.transaction() as connection:
                    for stream_name, events in appends:
                        results.append(await self.real.append(stream_name, events, expected_version=ANY, connection=connection))
                    if not commits:
                        raise _Undo
            return results

        results = self.runner.run(transact())
        if commits:
            self.follow(list(zip(appends, results, strict=True)))

    @rule(work=some.lists(streams, min_size=2, max_size=8))
    def append_at_once(self, work: list[int]) -> None:
        """Callers beside each other, one event each: memory repeats them in the order in which PostgreSQL took them."""
        appends = [(self.name(stream), [NewEvent("Noted", "{}")]) for stream in work]

        async def together() -> list[AppendResult]:
            return await asyncio.gather(*(self.real.append(*append, expected_version=ANY) for append in appends))

        results = self.runner.run(together())
        self.follow(sorted(zip(appends, results, strict=True), key=lambda pair: pair[1].global_position))

    def follow(self, stored: list[tuple[tuple[str, list[NewEvent]], AppendResult]]) -> None:
        """Do in memory what PostgreSQL has done."""
        followed = [self.runner.run(self.memory.append(*append, expected_version=ANY)) for append, _ in stored]
        for (append, real), in_memory in zip(stored, followed, strict=True):
            self.stored(*append, ANY, in_memory, real)

    # -- several streams, conditions: once both stores have them

    @precondition(lambda self: SEVERAL_STREAMS)
    @rule(work=some.lists(some.tuples(streams, some.integers(1, 3), expectations), min_size=1, max_size=4, unique_by=lambda part: part[0]))
    def append_to_streams(self, work: list[tuple[int, int, str]]) -> None:
        parts = [
            eventstore.StreamAppend(self.name(stream), [NewEvent("Noted", "{}") for _ in range(count)], self.expected(stream, kind))
            for stream, count, kind in work
        ]
        in_memory, real = self.both(lambda store: store.append_to_streams(parts))
        if isinstance(in_memory, tuple):
            assert [(part.stream_name, part.version) for part in in_memory] == [(part.stream_name, part.version) for part in real]
            self.learn_positions()
            assert [self.positions[part.global_position] for part in in_memory] == [part.global_position for part in real]

    @precondition(lambda self: CONDITIONS)
    @rule(stream=streams, other=streams, tag=some.sampled_from("ab"), between=some.sampled_from(["a", "b", ""]))
    def append_under_a_condition(self, stream: int, other: int, tag: str, between: str) -> None:
        """Refused by both if, and only if, another event with the tag came since the decision's read."""
        query = eventstore.EventQuery(tags=(f"{self.prefix}{tag}",))
        memory_read, real_read = (self.runner.run(store.read_matching(query)) for store in (self.memory, self.real))
        assert [event.event_id for event in memory_read.events] == [event.event_id for event in real_read.events]
        if between:
            self.append(self.name(other), [NewEvent("Noted", "{}", tags=(f"{self.prefix}{between}",))], ANY)
        part = eventstore.StreamAppend(self.name(stream), [NewEvent("Noted", "{}", tags=(f"{self.prefix}{tag}",))], ANY)
        tokens = {id(self.memory): memory_read.token, id(self.real): real_read.token}
        in_memory, _ = self.both(
            lambda store: store.append_to_streams([part], condition=eventstore.AppendCondition(query, tokens[id(store)]))
        )
        assert isinstance(in_memory, HeadwaterError) == (between == tag)
        self.learn_positions()

    # -- reading

    @rule(stream=streams, first=some.none() | some.integers(-1, 30), backwards=some.booleans(), limit=some.none() | some.integers(0, 30))
    def read_stream(self, stream: int, first: int | None, backwards: bool, limit: int | None) -> None:
        async def read(store: Any) -> list[RecordedEvent]:
            return [e async for e in store.read_stream(self.name(stream), from_version=first, backwards=backwards, limit=limit)]

        self.compare_events(*self.both(read))

    @rule(stream=streams)
    def read_version(self, stream: int) -> None:
        in_memory, real = self.both(lambda store: store.stream_version(self.name(stream)))
        assert in_memory == real

    @rule(data=some.data(), limit=some.integers(1, 50))
    def read_log(self, data: Any, limit: int) -> None:
        after = data.draw(some.sampled_from(sorted(self.positions)))
        in_memory = self.runner.run(self.memory.read_log(after=after, limit=limit))
        real = self.runner.run(self.real.read_log(after=self.positions[after], limit=limit))
        self.compare_events(list(in_memory.events), list(real.events))
        assert real.horizon >= self.positions[in_memory.horizon]

    @precondition(lambda self: self.appended)
    @rule(data=some.data(), is_right=some.booleans())
    def verify_checkpoint(self, data: Any, is_right: bool) -> None:
        position = data.draw(some.sampled_from([position for position in self.positions if position]))
        event_id = self.memory.events[position - 1].event_id if is_right else uuid.uuid4()
        places = {id(self.memory): position, id(self.real): self.positions[position]}
        answer, _ = self.both(lambda store: store.verify_checkpoint(eventstore.Checkpoint(1, places[id(store)], event_id)))
        assert (answer is None) == is_right

    def compare_events(self, in_memory: list[RecordedEvent], real: list[RecordedEvent]) -> None:
        assert [_facts(event, self.positions[event.global_position]) for event in in_memory] == [
            _facts(event, event.global_position) for event in real
        ]

    @invariant()
    def positions_grow(self) -> None:
        ordered = [self.positions[position] for position in sorted(self.positions)]
        assert ordered == sorted(set(ordered))


class _Undo(Exception):
    """Rolls a transaction back on purpose."""


def _facts(event: RecordedEvent, position: int) -> tuple[Any, ...]:
    return (position, event.stream_name, event.version, event.type, event.data, dict(event.metadata), event.event_id)


def test_both_stores_answer_the_same(headwater_databases: MigratedDatabases) -> None:
    with headwater_databases.fresh() as dsn:
        BothStores.dsn = dsn
        run_state_machine_as_test(
            BothStores,
            settings=settings(
                max_examples=full_count(EXAMPLES, EXAMPLES_FULL),
                stateful_step_count=STEPS,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                print_blob=True,
            ),
        )


def test_difference_is_found(headwater_databases: MigratedDatabases) -> None:
    """The test above is able to fail: a memory store that forgets to compare versions is found out."""

    class Careless(BothStores):
        def both(self, call: Callable[[Any], Awaitable[Any]]) -> tuple[Any, Any]:
            self.memory.append = self._forget(MemoryEventStore.append)  # type: ignore[method-assign]
            return super().both(call)

        def _forget(self, append: Any) -> Callable[..., Coroutine[Any, Any, AppendResult]]:
            async def forgetful(stream_name: str, events: list[NewEvent], *, expected_version: ExpectedVersion) -> AppendResult:
                return await append(self.memory, stream_name, events, expected_version=ANY)

            return forgetful

    with headwater_databases.fresh() as dsn:
        Careless.dsn = dsn
        with pytest.raises(AssertionError, match="on PostgreSQL"):
            run_state_machine_as_test(
                Careless,
                settings=settings(
                    max_examples=EXAMPLES,
                    stateful_step_count=STEPS,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                    database=None,
                    phases=[Phase.generate],
                ),
            )
