"""What every `EventStore` promises."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC
from typing import Any, ClassVar

import pytest

from headwater.errors import (
    ConditionFailed,
    DuplicateEvent,
    InvalidEvent,
    InvalidStreamName,
    LogDiverged,
    StreamClosed,
    StreamNotFound,
    UsageError,
    WrongExpectedVersion,
)
from headwater.eventstore import READ_BATCH_SIZE, AppendCondition, Checkpoint, Decider, EventQuery, EventStore, StreamAppend, decide
from headwater.messages import ANY, NO_STREAM, STREAM_EXISTS, Event, EventRegistry, NewEvent, RecordedEvent
from headwater.telemetry import Correlation, correlate
from headwater.testing.conformance.bad_input import BAD_APPENDS, BadAppend
from headwater.testing.conformance.callers import CallersConformance
from headwater.testing.conformance.selections import SelectionConformance

STREAM = "conformance-1"


class Counted(Event, category="conformance"):
    """One step of a count."""

    number: int


class Seat(Event, category="conformance"):
    """A student takes a place in a course."""

    course: str
    student: str

    def event_tags(self) -> tuple[str, ...]:
        return (f"course:{self.course}", f"student:{self.student}")


class EventStoreConformance(CallersConformance, SelectionConformance):
    """Inherit, and give a fixture `store` with an empty event store; every test must pass."""

    pytestmark = pytest.mark.asyncio
    joins_transactions: ClassVar[bool] = False
    """Whether `connection=` joins a caller's transaction; where not, giving one must be refused."""

    # -- expected versions

    async def test_first_append_starts_at_version_one(self, store: EventStore) -> None:
        result = await store.append(STREAM, [Counted(number=1), Counted(number=2)], expected_version=NO_STREAM)
        assert (result.stream_name, result.version) == (STREAM, 2)
        assert [event.version for event in await _stream(store)] == [1, 2]
        assert (await _stream(store))[-1].global_position == result.global_position

    async def test_append_at_the_expected_version_goes_on(self, store: EventStore) -> None:
        await store.append(STREAM, [Counted(number=1)], expected_version=0)
        assert (await store.append(STREAM, [Counted(number=2)], expected_version=1)).version == 2

    @pytest.mark.parametrize(("expected", "in_words"), [(0, "no stream"), (1, "version 1"), (3, "version 3")])
    async def test_append_with_stale_version_stores_nothing(self, store: EventStore, expected: int, in_words: str) -> None:
        await store.append(STREAM, [Counted(number=1), Counted(number=2)], expected_version=0)
        with pytest.raises(WrongExpectedVersion) as caught:
            await store.append(STREAM, [Counted(number=3)], expected_version=expected)
        error = caught.value
        assert (error.stream_name, error.expected, error.actual_version, error.retryable) == (STREAM, in_words, 2, True)
        assert await _numbers(store) == [1, 2]

    async def test_any_version_appends_wherever_the_stream_ends(self, store: EventStore) -> None:
        for number in (1, 2):
            assert (await store.append(STREAM, [Counted(number=number)], expected_version=ANY)).version == number

    async def test_existing_stream_must_exist(self, store: EventStore) -> None:
        with pytest.raises(WrongExpectedVersion) as caught:
            await store.append(STREAM, [Counted(number=1)], expected_version=STREAM_EXISTS)
        assert (caught.value.expected, caught.value.actual_version) == ("an existing stream", 0)
        await store.append(STREAM, [Counted(number=1)], expected_version=NO_STREAM)
        assert (await store.append(STREAM, [Counted(number=2)], expected_version=STREAM_EXISTS)).version == 2

    @pytest.mark.parametrize("expected", [-1, -2, True, "1", 1.0, None, 2**63])
    async def test_expectation_that_is_none_is_refused(self, store: EventStore, expected: Any) -> None:
        with pytest.raises(UsageError, match="expected_version"):
            await store.append(STREAM, [Counted(number=1)], expected_version=expected)
        assert await _stream(store) == []

    async def test_one_of_many_writers_at_one_version_wins(self, store: EventStore) -> None:
        async def write(number: int) -> bool:
            try:
                await store.append(STREAM, [Counted(number=number)], expected_version=0)
            except WrongExpectedVersion:
                return False
            return True

        assert sum(await asyncio.gather(*(write(number) for number in range(8)))) == 1
        assert await store.stream_version(STREAM) == 1

    # -- idempotency

    async def test_repeated_append_stores_once_and_answers_the_same(self, store: EventStore) -> None:
        events = [NewEvent.of(Counted(number=number)) for number in (1, 2)]
        first = await store.append(STREAM, events, expected_version=0)
        await store.append(STREAM, [Counted(number=3)], expected_version=2)
        assert await store.append(STREAM, events, expected_version=0) == first
        assert await _numbers(store) == [1, 2, 3]

    async def test_stored_id_in_other_company_is_refused(self, store: EventStore) -> None:
        one, two, three = (NewEvent.of(Counted(number=number)) for number in (1, 2, 3))
        await store.append(STREAM, [one, two], expected_version=0)
        others: Sequence[tuple[str, Sequence[NewEvent]]] = [
            ("conformance-2", [one, two]),
            (STREAM, [two, one]),
            (STREAM, [one, two, three]),
            (STREAM, [three, one]),
        ]
        for stream_name, events in others:
            with pytest.raises(DuplicateEvent) as caught:
                await store.append(stream_name, events, expected_version=ANY)
            assert caught.value.event_id in {one.event_id, two.event_id}
        assert await _numbers(store) == [1, 2]
        assert await _stream(store, "conformance-2") == []

    # -- several streams

    async def test_append_to_several_streams_stores_all(self, store: EventStore) -> None:
        await store.append(STREAM, [Counted(number=1)], expected_version=0)
        results = await store.append_to_streams(
            [
                StreamAppend("conformance-2", [Counted(number=2), Counted(number=3)], NO_STREAM),
                StreamAppend(STREAM, [Counted(number=4)], 1),
            ]
        )
        assert [(result.stream_name, result.version) for result in results] == [("conformance-2", 2), (STREAM, 2)]
        log = (await store.read_log(after=0)).events
        assert [json.loads(event.data)["number"] for event in log] == [1, 2, 3, 4]
        assert [result.global_position for result in results] == [log[2].global_position, log[3].global_position]

    async def test_append_to_several_streams_stores_nothing_where_one_is_not_as_expected(self, store: EventStore) -> None:
        await store.append(STREAM, [Counted(number=1)], expected_version=0)
        with pytest.raises(WrongExpectedVersion) as caught:
            await store.append_to_streams(
                [StreamAppend("conformance-2", [Counted(number=2)], NO_STREAM), StreamAppend(STREAM, [Counted(number=3)], 2)]
            )
        assert (caught.value.stream_name, caught.value.expected, caught.value.actual_version) == (STREAM, "version 2", 1)
        assert (await _numbers(store), await _stream(store, "conformance-2")) == ([1], [])

    async def test_repeated_append_to_several_streams_answers_the_same(self, store: EventStore) -> None:
        appends = [
            StreamAppend(name, [NewEvent.of(Counted(number=number)) for number in (1, 2)], NO_STREAM) for name in (STREAM, "conformance-2")
        ]
        first = await store.append_to_streams(appends)
        await store.append(STREAM, [Counted(number=3)], expected_version=2)
        assert await store.append_to_streams(appends) == first
        with pytest.raises(DuplicateEvent):
            await store.append_to_streams([appends[0], StreamAppend("conformance-3", [Counted(number=4)], ANY)])
        assert await _stream(store, "conformance-3") == []

    async def test_stream_stands_once_in_an_append_to_several(self, store: EventStore) -> None:
        for appends in ([], [StreamAppend(STREAM, [Counted(number=1)], ANY)] * 2):
            with pytest.raises(UsageError):
                await store.append_to_streams(appends)
        assert await _stream(store) == []

    # -- conditions

    async def test_matching_events_are_found_by_type_and_tags(self, store: EventStore) -> None:
        await store.append(
            STREAM, [Seat(course="c1", student="s1"), Seat(course="c1", student="s2"), Counted(number=1)], expected_version=0
        )
        await store.append("conformance-2", [Seat(course="c2", student="s1")], expected_version=0)

        async def found(*queries: EventQuery) -> list[tuple[str, int]]:
            return [(event.stream_name, event.version) for event in (await store.read_matching(queries)).events]

        assert await found(EventQuery.of(Seat, tags=["course:c1"])) == [(STREAM, 1), (STREAM, 2)]
        assert await found(EventQuery(tags=("student:s1",))) == [(STREAM, 1), ("conformance-2", 1)]
        assert await found(EventQuery(tags=("student:s1", "course:c2"))) == [("conformance-2", 1)]
        assert await found(EventQuery.of(Counted), EventQuery(tags=("course:c2",))) == [(STREAM, 3), ("conformance-2", 1)]
        assert await found(EventQuery.of(Counted, tags=["course:c1"])) == []
        assert await found(EventQuery(types=("Seat",)), EventQuery(tags=("course:c1",))) == [(STREAM, 1), (STREAM, 2), ("conformance-2", 1)]

    async def test_append_under_a_condition_is_refused_once_another_match_came(self, store: EventStore) -> None:
        query = EventQuery.of(Seat, tags=["course:c1"])
        read = await store.read_matching(query)
        await store.append("conformance-2", [Seat(course="c2", student="s1"), Counted(number=1)], expected_version=ANY)
        condition = AppendCondition(query, read.token)
        append = [StreamAppend(STREAM, [NewEvent.of(Seat(course="c1", student="s1"))], ANY)]
        first = await store.append_to_streams(append, condition=condition)
        assert await store.append_to_streams(append, condition=condition) == first, "a repetition is no other event"
        with pytest.raises(ConditionFailed) as caught:
            await store.append_to_streams([StreamAppend("conformance-3", [Seat(course="c1", student="s2")], ANY)], condition=condition)
        assert caught.value.global_position == first[0].global_position
        assert await _stream(store, "conformance-3") == []
        again = AppendCondition(query, (await store.read_matching(query)).token)
        await store.append_to_streams([StreamAppend("conformance-3", [Seat(course="c1", student="s2")], ANY)], condition=again)

    async def test_one_of_many_appends_under_one_condition_wins(self, store: EventStore) -> None:
        query = EventQuery(tags=("course:c1",))
        condition = AppendCondition(query, (await store.read_matching(query)).token)

        async def book(student: int) -> bool:
            append = StreamAppend(f"conformance-{student}", [Seat(course="c1", student=str(student))], NO_STREAM)
            try:
                await store.append_to_streams([append], condition=condition)
            except ConditionFailed:
                return False
            return True

        assert sum(await asyncio.gather(*(book(student) for student in range(8)))) == 1
        assert len((await store.read_matching(query)).events) == 1

    async def test_bad_tags_and_queries_are_refused(self, store: EventStore) -> None:
        for tags in (("",), ("x" * 201,), ("a\x00b",), tuple(map(str, range(21)))):
            with pytest.raises(InvalidEvent, match="tag"):
                await store.append(STREAM, [NewEvent("T", "{}", tags=tags)], expected_version=ANY)
        with pytest.raises(UsageError, match="EventQuery"):
            await store.read_matching([])
        assert await _stream(store) == []

    # -- closing

    async def test_closed_stream_takes_no_further_events_and_stays_readable(self, store: EventStore) -> None:
        await store.append(STREAM, [Counted(number=1), Counted(number=2)], expected_version=0)
        closed = await store.close_stream(STREAM)
        assert (closed.stream_name, closed.version) == (STREAM, 2)
        for expected in (ANY, STREAM_EXISTS, 2, 0):
            with pytest.raises(StreamClosed) as caught:
                await store.append(STREAM, [Counted(number=3)], expected_version=expected)
            error = caught.value
            assert (error.stream_name, error.closed_at, error.retryable) == (STREAM, closed.closed_at, False)
        assert await _numbers(store) == [1, 2]
        assert await store.close_stream(STREAM) == closed
        assert (await store.append("conformance-2", [Counted(number=1)], expected_version=0)).version == 1

    async def test_append_repeated_after_its_stream_was_closed_answers_the_same(self, store: EventStore) -> None:
        events = [NewEvent.of(Counted(number=number)) for number in (1, 2)]
        first = await store.append(STREAM, events, expected_version=0)
        await store.close_stream(STREAM)
        assert await store.append(STREAM, events, expected_version=0) == first

    async def test_stream_that_does_not_exist_cannot_be_closed(self, store: EventStore) -> None:
        with pytest.raises(StreamNotFound, match=STREAM):
            await store.close_stream(STREAM)
        assert (await store.append(STREAM, [Counted(number=1)], expected_version=0)).version == 1

    async def test_refused_append_draws_no_version_and_its_ids_stay_free(self, store: EventStore) -> None:
        await store.append(STREAM, [Counted(number=1)], expected_version=0)
        events = [NewEvent.of(Counted(number=2))]
        with pytest.raises(WrongExpectedVersion):
            await store.append(STREAM, events, expected_version=0)
        assert (await store.append(STREAM, events, expected_version=1)).version == 2

    # -- callers at once

    # -- what is stored

    async def test_event_comes_back_as_it_was_given(self, store: EventStore) -> None:
        given = NewEvent(
            type="Anything", data='{"b": 1.50, "aa": ["é€", null, true], "a": 1e2}', metadata={"who": "é", "correlation_id": "c"}
        )
        await store.append(STREAM, [given], expected_version=0)
        (event,) = await _stream(store)
        assert (event.type, event.event_id, event.stream_name, event.category) == ("Anything", given.event_id, STREAM, "conformance")
        assert json.loads(event.data) == json.loads(given.data)
        assert (dict(event.metadata), event.correlation_id) == (dict(given.metadata), "c")
        assert event.recorded_at.utcoffset() is not None
        assert event.recorded_at.astimezone(UTC) == event.recorded_at

    async def test_event_carries_what_is_being_handled(self, store: EventStore) -> None:
        with correlate(Correlation("story", "cause", traceparent="00-0123456789abcdef0123456789abcdef-0123456789abcdef-01")):
            await store.append(STREAM, [Counted(number=1)], expected_version=0)
        (event,) = await _stream(store)
        assert event.metadata["correlation_id"] == "story"
        assert event.metadata["causation_id"] == "cause"
        assert event.metadata["traceparent"].startswith("00-")

    @pytest.mark.parametrize("stream_name", ["conformance", "conformance-", "conformance-it's", 'conformance-"x"', "conformance-é-%s-\\"])
    async def test_odd_stream_names_are_names(self, store: EventStore, stream_name: str) -> None:
        await store.append(stream_name, [Counted(number=1)], expected_version=NO_STREAM)
        assert [event.stream_name for event in await _stream(store, stream_name)] == [stream_name]

    # -- bad input

    @pytest.mark.parametrize("bad", BAD_APPENDS, ids=lambda bad: bad.name)
    async def test_bad_input_is_refused_and_stores_nothing(self, store: EventStore, bad: BadAppend) -> None:
        before = await store.append(STREAM, [Counted(number=1)], expected_version=0)
        with pytest.raises(bad.error, match=bad.says or None):
            await store.append(bad.stream_name, bad.events(), expected_version=ANY)
        assert [event.global_position for event in (await store.read_log(after=0)).events] == [before.global_position]
        assert (await store.append(STREAM, [Counted(number=2)], expected_version=1)).version == 2

    # -- reading a stream

    async def test_missing_stream_is_empty(self, store: EventStore) -> None:
        assert await _stream(store) == []
        assert await store.stream_version(STREAM) == 0

    @pytest.mark.parametrize(
        ("arguments", "versions"),
        [
            ({}, [1, 2, 3, 4, 5]),
            ({"from_version": 3}, [3, 4, 5]),
            ({"from_version": 6}, []),
            ({"from_version": 0}, [1, 2, 3, 4, 5]),
            ({"limit": 2}, [1, 2]),
            ({"limit": 0}, []),
            ({"from_version": 2, "limit": 2}, [2, 3]),
            ({"backwards": True}, [5, 4, 3, 2, 1]),
            ({"backwards": True, "from_version": 3}, [3, 2, 1]),
            ({"backwards": True, "from_version": 9}, [5, 4, 3, 2, 1]),
            ({"backwards": True, "from_version": 0}, []),
            ({"backwards": True, "limit": 1}, [5]),
            ({"backwards": True, "from_version": 4, "limit": 2}, [4, 3]),
        ],
        ids=str,
    )
    async def test_stream_reads_both_ways_from_a_version(self, store: EventStore, arguments: dict[str, Any], versions: list[int]) -> None:
        await store.append(STREAM, [Counted(number=number) for number in range(1, 6)], expected_version=0)
        await store.append("conformance-2", [Counted(number=9)], expected_version=0)
        assert [event.version async for event in store.read_stream(STREAM, **arguments)] == versions

    async def test_long_stream_reads_whole(self, store: EventStore) -> None:
        count = 2 * READ_BATCH_SIZE + 1
        for first in range(1, count + 1, 1000):
            events = [Counted(number=number) for number in range(first, min(first + 1000, count + 1))]
            await store.append(STREAM, events, expected_version=first - 1)
        assert [event.version async for event in store.read_stream(STREAM)] == list(range(1, count + 1))
        limit = READ_BATCH_SIZE + 1
        newest = [event.version async for event in store.read_stream(STREAM, backwards=True, limit=limit)]
        assert newest == list(range(count, count - limit, -1))
        assert len((await store.read_log(after=0)).events) == READ_BATCH_SIZE

    async def test_bad_name_is_refused_when_reading(self, store: EventStore) -> None:
        with pytest.raises(InvalidStreamName):
            await _stream(store, "")
        with pytest.raises(InvalidStreamName):
            await store.stream_version("x" * 10_000)

    # -- reading the log

    async def test_log_comes_in_order_once(self, store: EventStore) -> None:
        for number in range(1, 8):
            await store.append(f"conformance-{number % 3}", [Counted(number=number)], expected_version=ANY)
        read: list[int] = []
        after = 0
        while (log := await store.read_log(after=after, limit=2)).events:
            assert all(after < event.global_position <= log.horizon for event in log.events)
            read += [json.loads(event.data)["number"] for event in log.events]
            after = log.events[-1].global_position
        assert read == list(range(1, 8))
        assert await store.horizon() >= after

    async def test_log_is_read_up_to_a_horizon_read_before(self, store: EventStore) -> None:
        await store.append(STREAM, [Counted(number=1), Counted(number=2)], expected_version=0)
        before = await store.read_log(after=0)
        await store.append(STREAM, [Counted(number=3)], expected_version=2)
        assert await store.read_log(after=0, horizon=before.horizon) == before
        assert (await store.read_log(after=before.horizon, horizon=before.horizon)).events == ()

    async def test_empty_log_has_nothing_to_read(self, store: EventStore) -> None:
        log = await store.read_log(after=0)
        assert (log.events, log.horizon) == ((), 0)

    async def test_identity_stays(self, store: EventStore) -> None:
        identity = await store.identity()
        await store.append(STREAM, [Counted(number=1)], expected_version=0)
        assert await store.identity() == identity
        assert (identity.epoch, identity.locate(1)) == (1, (1, 1))

    async def test_checkpoint_is_verified(self, store: EventStore) -> None:
        result = await store.append(STREAM, [Counted(number=1)], expected_version=0)
        (event,) = await _stream(store)
        await store.verify_checkpoint(Checkpoint())
        await store.verify_checkpoint(Checkpoint(1, result.global_position, event.event_id))
        for lost in (Checkpoint(1, result.global_position, NewEvent("T", "{}").event_id), Checkpoint(1, 1000, event.event_id)):
            with pytest.raises(LogDiverged):
                await store.verify_checkpoint(lost)

    # -- the decide loop

    async def test_decisions_under_contention_all_count_once(self, store: EventStore) -> None:
        registry = EventRegistry([Counted])

        async def count(times: int) -> None:
            for _ in range(times):
                await decide(store, registry, counter, STREAM, 1)

        # Nobody can lose more often than the two others win together, which is less than the attempts of one decision.
        await asyncio.gather(*(count(4) for _ in range(3)))
        assert await _numbers(store) == list(range(1, 13))

    async def test_decision_of_nothing_appends_nothing(self, store: EventStore) -> None:
        decision = await decide(store, EventRegistry([Counted]), counter, STREAM, 0)
        assert (decision.events, decision.state, decision.result) == ((), 0, None)
        assert await store.stream_version(STREAM) == 0

    # -- the caller's transaction

    async def test_something_that_is_no_connection_is_refused(self, store: EventStore) -> None:
        nonsense: Any = object()
        with pytest.raises(UsageError, match="connection"):
            await store.append(STREAM, [Counted(number=1)], expected_version=0, connection=nonsense)
        with pytest.raises(UsageError, match="connection"):
            await store.stream_version(STREAM, connection=nonsense)
        assert await _stream(store) == []


counter: Decider[int, int] = Decider(
    initial_state=0,
    decide=lambda command, state: [Counted(number=state + step) for step in range(1, command + 1)],
    evolve=lambda state, event: event.number if isinstance(event, Counted) else state,
)


async def _stream(store: EventStore, stream_name: str = STREAM) -> list[RecordedEvent]:
    return [event async for event in store.read_stream(stream_name)]


async def _numbers(store: EventStore) -> list[int]:
    return [json.loads(event.data)["number"] for event in await _stream(store)]
