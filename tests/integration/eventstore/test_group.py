"""Group append: many callers, one transaction, and each one's outcome his own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import asyncpg
import pytest

from headwater.errors import (
    AppendBlocked,
    DuplicateEvent,
    HeadwaterError,
    InvalidEvent,
    StorageUnavailable,
    StoreNotOpen,
    WrongExpectedVersion,
)
from headwater.eventstore import AppendCondition, EventQuery, PostgresEventStore, StreamAppend, group, slow_lane
from headwater.messages import ANY, AppendResult, NewEvent
from headwater.postgres import Database
from headwater.testing import eventually
from tests.integration.eventstore.logs import SOMEBODY_WAITS_FOR_US, OrderPlaced, append, read_positions, versions

TRANSACTIONS = "SELECT count(DISTINCT xmin::text) FROM headwater.events"
IDLE_IN_TRANSACTION = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'"


async def _all(calls: Sequence[object]) -> list[object]:
    return list(await asyncio.gather(*calls, return_exceptions=True))  # type: ignore[call-overload]


async def test_callers_at_once_share_transactions(store: PostgresEventStore, other: asyncpg.Connection) -> None:
    results = await asyncio.gather(*(store.append(f"order-{number}", [OrderPlaced()], expected_version=0) for number in range(100)))
    assert [result.version for result in results] == [1] * 100
    assert sorted(result.global_position for result in results) == await read_positions(store)
    assert await other.fetchval(TRANSACTIONS) <= 4


async def test_crowd_is_let_in_by_order(store: PostgresEventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group, "UNITS_WAITING_MAX", 3)
    results = await asyncio.gather(*(store.append("order-1", [OrderPlaced()], expected_version=ANY) for _ in range(50)))
    assert [result.version for result in results] == list(range(1, 51))


async def test_crowd_hears_that_the_database_was_closed(
    postgres_dsn: str, other: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody of it is written after the others were told so, on a connection that nobody would close."""
    monkeypatch.setattr(group, "UNITS_WAITING_MAX", 3)
    async with Database(postgres_dsn) as database:
        store = PostgresEventStore(database)
        calls = [asyncio.create_task(store.append(f"order-{n}", [OrderPlaced()], expected_version=0)) for n in range(20)]
        await asyncio.sleep(0)
    outcomes = await asyncio.wait_for(_all(calls), 10)
    refused = [outcome for outcome in outcomes if isinstance(outcome, StoreNotOpen)]
    stored = [outcome for outcome in outcomes if isinstance(outcome, AppendResult)]
    assert (len(refused) + len(stored), len(refused) >= 17) == (20, True)
    assert await other.fetchval("SELECT count(*) FROM headwater.events") == len(stored)


async def test_each_caller_has_his_own_outcome(store: PostgresEventStore) -> None:
    await append(store, stream_name="order-1")
    stored = NewEvent.of(OrderPlaced())
    await store.append("order-2", [stored], expected_version=0)
    good, conflict, duplicate, repeated, nul, number = await _all(
        [
            store.append("order-3", [OrderPlaced()], expected_version=0),
            store.append("order-1", [OrderPlaced()], expected_version=0),
            store.append("order-4", [stored], expected_version=0),
            store.append("order-2", [stored], expected_version=0),
            store.append("order-5", [NewEvent("T", '{"text": "\\u0000"}')], expected_version=0),
            store.append("order-6", [NewEvent("T", '{"number": 1e200000}')], expected_version=0),
        ]
    )
    assert isinstance(good, AppendResult)
    assert isinstance(conflict, WrongExpectedVersion)
    assert conflict.actual_version == 1
    assert isinstance(duplicate, DuplicateEvent)
    assert isinstance(repeated, AppendResult)
    assert repeated.version == 1
    assert isinstance(nul, InvalidEvent)
    assert isinstance(number, InvalidEvent)
    assert [await versions(store, f"order-{number}") for number in range(1, 7)] == [[1], [1], [1], [], [], []]


async def test_one_bad_item_among_many_fails_alone(store: PostgresEventStore) -> None:
    bad = {7, 30, 31}
    events = {number: NewEvent("T", '{"n": 1e200000}' if number in bad else "{}") for number in range(64)}
    outcomes = await _all([store.append(f"order-{number}", [event], expected_version=0) for number, event in events.items()])
    assert {number for number, outcome in enumerate(outcomes) if isinstance(outcome, InvalidEvent)} == bad
    assert sum(isinstance(outcome, AppendResult) for outcome in outcomes) == 61


async def test_appends_to_one_stream_keep_their_order(store: PostgresEventStore) -> None:
    events = [NewEvent("T", f'{{"number": {number}}}') for number in range(200)]
    results = await asyncio.gather(*(store.append("order-1", [event], expected_version=ANY) for event in events))
    assert [result.version for result in results] == list(range(1, 201))
    assert [event.event_id async for event in store.read_stream("order-1")] == [event.event_id for event in events]


async def test_each_version_of_a_stream_is_taken_once_within_a_group(store: PostgresEventStore) -> None:
    outcomes = await _all([store.append("order-1", [OrderPlaced()], expected_version=number // 2) for number in range(20)])
    assert [isinstance(outcome, AppendResult) for outcome in outcomes] == [True, False] * 10


async def test_same_event_from_two_callers_is_stored_once(store: PostgresEventStore) -> None:
    event = NewEvent.of(OrderPlaced())
    first, second = await asyncio.gather(*(store.append("order-1", [event], expected_version=0) for _ in range(2)))
    assert first == second
    assert await versions(store, "order-1") == [1]


async def test_stream_in_another_transaction_delays_only_its_own_callers(store: PostgresEventStore, other: asyncpg.Connection) -> None:
    await append(store, stream_name="order-1")
    async with other.transaction():
        await append(store, other, "order-1")
        await append(store, other, "order-new")  # does not exist for others yet
        waiting = [asyncio.create_task(store.append(name, [OrderPlaced()], expected_version=ANY)) for name in ("order-1", "order-new")]
        for turn in range(20):
            await asyncio.gather(*(append(store, None, f"order-{turn}-{number}") for number in range(10)))
        await eventually(lambda: other.fetchval(SOMEBODY_WAITS_FOR_US))
        later = asyncio.create_task(store.append("order-1", [OrderPlaced()], expected_version=ANY))
        await append(store, stream_name="order-elsewhere")
        assert not any(task.done() for task in (*waiting, later))
    results = await asyncio.gather(*waiting, later)
    assert [result.version for result in results] == [3, 2, 4]
    assert (await append(store, stream_name="order-1")) > results[2].global_position


async def test_blocked_append_says_who_holds_its_stream(
    store: PostgresEventStore, other: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slow_lane, "SLOW_LANE_SECONDS_MAX", 0.3)
    await append(store, stream_name="order-1")
    async with other.transaction():
        await append(store, other, "order-1")
        with pytest.raises(AppendBlocked, match=rf"'order-1'.*pid {other.get_server_pid()}.*idle in transaction") as caught:
            await store.append("order-1", [OrderPlaced()], expected_version=ANY)
        assert (caught.value.stream_names, caught.value.holder_pid) == (("order-1",), other.get_server_pid())
        await append(store, other, "order-new")
        with pytest.raises(AppendBlocked, match="creating"):
            await store.append("order-new", [OrderPlaced()], expected_version=ANY)
    assert await versions(store, "order-1") == [1, 2]


async def test_slow_lane_is_bounded(store: PostgresEventStore, other: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_lane, "SLOW_LANE_UNITS_MAX", 3)
    await append(store, stream_name="order-1")
    async with other.transaction():
        await append(store, other, "order-1")
        calls = [asyncio.create_task(store.append("order-1", [OrderPlaced()], expected_version=ANY)) for _ in range(5)]
        await eventually(lambda: sum(call.done() for call in calls) == 2)
    outcomes = await _all(calls)
    assert [type(outcome) for outcome in outcomes] == [AppendResult] * 3 + [AppendBlocked] * 2


async def test_cancelled_caller_stores_all_or_nothing_and_disturbs_nobody(store: PostgresEventStore, other: asyncpg.Connection) -> None:
    for turn in range(30):
        calls = [asyncio.create_task(store.append(f"order-{turn}-{n}", [OrderPlaced()] * 3, expected_version=0)) for n in range(8)]
        for _ in range(turn % 6):
            await asyncio.sleep(0)
        calls[turn % 8].cancel()
        outcomes = await _all(calls)
        assert sum(isinstance(outcome, AppendResult) for outcome in outcomes) >= 7
        await append(store, stream_name="order-behind")
    counts = await other.fetch("SELECT stream_id, count(*) AS stored FROM headwater.events GROUP BY stream_id")
    assert {row["stored"] for row in counts} == {3, 30}
    assert await other.fetchval(IDLE_IN_TRANSACTION) == 0


async def test_cut_connection_is_told_to_everyone_in_the_group_and_the_next_append_works(
    store: PostgresEventStore, other: asyncpg.Connection
) -> None:
    await append(store)
    async with other.transaction():
        await other.execute("LOCK TABLE headwater.events IN ACCESS EXCLUSIVE MODE")
        events = [NewEvent.of(OrderPlaced()) for _ in range(5)]
        calls = [asyncio.create_task(store.append(f"order-{n}", [event], expected_version=ANY)) for n, event in enumerate(events)]
        await eventually(
            lambda: other.fetchval(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))"
            )
        )
        outcomes = await _all(calls)
    assert any(isinstance(outcome, StorageUnavailable) for outcome in outcomes)
    assert all(isinstance(outcome, (StorageUnavailable, HeadwaterError)) for outcome in outcomes)
    repeated = await asyncio.gather(*(store.append(f"order-{n}", [event], expected_version=ANY) for n, event in enumerate(events)))
    assert [event.event_id async for event in store.read_stream("order-3")] == [events[3].event_id]
    assert len(repeated) == 5


async def test_closed_database_refuses_and_reopens(postgres_dsn: str) -> None:
    database = Database(postgres_dsn)
    store = PostgresEventStore(database)
    with pytest.raises(StoreNotOpen):
        await append(store)
    for expected in (1, 2):
        async with database:
            assert (await store.append("order-1", [OrderPlaced()], expected_version=ANY)).version == expected
    with pytest.raises(StoreNotOpen):
        await append(store)


async def test_closing_lets_what_is_in_flight_land(postgres_dsn: str, other: asyncpg.Connection) -> None:
    async with Database(postgres_dsn) as database:
        store = PostgresEventStore(database)
        calls = [asyncio.create_task(append(store, stream_name=f"order-{number}")) for number in range(20)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    outcomes = await _all(calls)
    stored = sum(isinstance(outcome, int) for outcome in outcomes)
    assert stored + sum(isinstance(outcome, StoreNotOpen) for outcome in outcomes) == 20
    assert await other.fetchval("SELECT count(*) FROM headwater.events") == stored


async def test_position_alone_would_miss_a_match_that_commits_late(store: PostgresEventStore, other: asyncpg.Connection) -> None:
    """Rule 9: a match that drew its position before the read, and committed after it."""
    query = EventQuery(types=("OrderPlaced",))
    async with other.transaction():
        early = await append(store, other, "order-1")
        unrelated = await store.append("order-2", [NewEvent("Other", "{}")], expected_version=0)
        read = await store.read_matching([query, EventQuery(types=("Other",))])
    assert early < unrelated.global_position
    assert (read.token.horizon, [event.global_position for event in read.events]) == (0, [unrelated.global_position])
    condition = AppendCondition([query, EventQuery(types=("Other",))], read.token)
    with pytest.raises(HeadwaterError, match="came since") as caught:
        await store.append_to_streams([StreamAppend("order-3", [OrderPlaced()], 0)], condition=condition)
    assert getattr(caught.value, "global_position", None) == early


async def test_conditional_append_waits_for_a_match_in_flight(store: PostgresEventStore, other: asyncpg.Connection) -> None:
    query = EventQuery(types=("OrderPlaced",))
    condition = AppendCondition(query, (await store.read_matching(query)).token)
    async with other.transaction():
        await append(store, other, "order-1")
        call = asyncio.create_task(store.append_to_streams([StreamAppend("order-2", [OrderPlaced()], 0)], condition=condition))
        await eventually(lambda: other.fetchval(SOMEBODY_WAITS_FOR_US))
        # Other types go on meanwhile, and the same type, too, in the pauses.
        await store.append("order-3", [NewEvent("Other", "{}")], expected_version=0)
        await store.append("order-4", [OrderPlaced()], expected_version=0)
        assert not call.done()
    with pytest.raises(HeadwaterError, match="came since"):
        await call
    assert await versions(store, "order-2") == []
