"""Appends inside transactions: the caller's own, savepoints, two at once, other drivers' habits."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from headwater.errors import TransactionConflict, UsageError, WrongExpectedVersion
from headwater.eventstore import PostgresEventStore, decide
from headwater.messages import ANY, EventRegistry, NewEvent
from headwater.postgres import Database
from headwater.testing import eventually
from headwater.testing.conformance.event_store import counter
from tests.integration.eventstore.logs import SOMEBODY_WAITS_FOR_US, OrderPlaced, versions


async def test_append_joins_the_callers_transaction(store: PostgresEventStore, database: Database) -> None:
    async with database.transaction() as connection:
        result = await store.append("order-1", [OrderPlaced()], expected_version=0, connection=connection)
        assert await store.stream_version("order-1") == 0, "others see it before the commit"
        assert await store.stream_version("order-1", connection=connection) == 1
        assert [event.version async for event in store.read_stream("order-1", connection=connection)] == [1]
    assert await versions(store, "order-1") == [1]
    assert (await store.read_log(after=0)).events[0].global_position == result.global_position


async def test_rolled_back_append_leaves_nothing(store: PostgresEventStore, database: Database) -> None:
    with pytest.raises(RuntimeError):
        async with database.transaction() as connection:
            await store.append("order-1", [OrderPlaced()], expected_version=0, connection=connection)
            raise RuntimeError
    assert await versions(store, "order-1") == []
    assert (await store.append("order-1", [OrderPlaced()], expected_version=0)).version == 1


async def test_savepoint_undoes_its_appends_alone(store: PostgresEventStore, database: Database) -> None:
    async with database.transaction() as connection:
        await store.append("order-1", [OrderPlaced()], expected_version=0, connection=connection)
        with pytest.raises(RuntimeError):
            async with connection.transaction():
                await store.append("order-1", [OrderPlaced()], expected_version=1, connection=connection)
                raise RuntimeError
        await store.append("order-1", [OrderPlaced()], expected_version=1, connection=connection)
        with pytest.raises(WrongExpectedVersion):
            async with connection.transaction():
                await store.append("order-1", [OrderPlaced()], expected_version=7, connection=connection)
        await store.append("order-2", [OrderPlaced()], expected_version=0, connection=connection)
    assert await versions(store, "order-1") == [1, 2]
    assert await versions(store, "order-2") == [1]


async def test_connection_without_a_transaction_is_refused(store: PostgresEventStore, database: Database) -> None:
    async with database.connection() as connection:
        with pytest.raises(UsageError, match=r"connection\.transaction\(\)"):
            await store.append("order-1", [OrderPlaced()], expected_version=0, connection=connection)
    assert await versions(store, "order-1") == []


async def test_second_writer_of_a_stream_waits_and_then_sees_the_first(store: PostgresEventStore, database: Database) -> None:
    await store.append("order-1", [OrderPlaced()], expected_version=0)
    async with database.transaction() as connection:
        await store.append("order-1", [OrderPlaced()], expected_version=1, connection=connection)
        late = asyncio.create_task(store.append("order-1", [OrderPlaced()], expected_version=1))
        await eventually(lambda: connection.fetchval(SOMEBODY_WAITS_FOR_US))
    with pytest.raises(WrongExpectedVersion) as caught:
        await late
    assert caught.value.actual_version == 2


@pytest.mark.parametrize("exists", [True, False], ids=["existing stream", "new stream"])
async def test_same_append_at_once_is_stored_once(store: PostgresEventStore, database: Database, exists: bool) -> None:
    """Ids are looked up under the stream's lock: the second of two retries must see what the first one stored."""
    if exists:
        await store.append("order-1", [OrderPlaced()], expected_version=0)
    events = [NewEvent.of(OrderPlaced()), NewEvent.of(OrderPlaced())]
    async with database.transaction() as connection:
        first = await store.append("order-1", events, expected_version=int(exists), connection=connection)
        second = asyncio.create_task(store.append("order-1", events, expected_version=int(exists)))
        await eventually(lambda: connection.fetchval(SOMEBODY_WAITS_FOR_US))
    assert await second == first
    assert await store.stream_version("order-1") == 2 + exists


async def test_appends_to_a_stream_never_update_its_row(store: PostgresEventStore, database: Database) -> None:
    """A foreign snapshot would make every later append step over the dead rows (rule 6)."""
    async with database.connection() as connection:
        places = set()
        for version in range(20):
            await store.append("order-1", [OrderPlaced()], expected_version=version)
            places.add(tuple(await connection.fetchrow("SELECT ctid::text, xmin::text FROM headwater.streams")))
    assert len(places) == 1


async def test_place_taken_behind_an_old_snapshot_is_a_conflict(store: PostgresEventStore, database: Database) -> None:
    await store.append("order-1", [OrderPlaced()], expected_version=0)
    async with database.connection() as connection:
        with pytest.raises(TransactionConflict, match="repeat the whole transaction"):
            async with connection.transaction(isolation="repeatable_read"):
                assert await store.stream_version("order-1", connection=connection) == 1
                await store.append("order-1", [OrderPlaced()], expected_version=1)
                await store.append("order-1", [OrderPlaced()], expected_version=1, connection=connection)
        with pytest.raises(TransactionConflict, match="repeat the whole transaction"):
            async with connection.transaction(isolation="repeatable_read"):
                assert await store.stream_version("order-2", connection=connection) == 0
                await store.append("order-2", [OrderPlaced()], expected_version=0)
                await store.append("order-2", [OrderPlaced()], expected_version=0, connection=connection)
    assert (await versions(store, "order-1"), await versions(store, "order-2")) == ([1, 2], [1])


async def test_deadlock_of_two_appenders_is_a_conflict_of_one(store: PostgresEventStore, database: Database) -> None:
    for stream_name in ("order-1", "order-2"):
        await store.append(stream_name, [OrderPlaced()], expected_version=0)
    first_done = [asyncio.Event(), asyncio.Event()]

    async def append_both(mine: int, stream_names: list[str]) -> None:
        async with database.transaction() as connection:
            await store.append(stream_names[0], [OrderPlaced()], expected_version=ANY, connection=connection)
            first_done[mine].set()
            await first_done[1 - mine].wait()
            await store.append(stream_names[1], [OrderPlaced()], expected_version=ANY, connection=connection)

    outcomes = await asyncio.gather(append_both(0, ["order-1", "order-2"]), append_both(1, ["order-2", "order-1"]), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["NoneType", "TransactionConflict"]
    assert [await store.stream_version(name) for name in ("order-1", "order-2")] == [2, 2]


async def test_relaxed_durability_is_raised_to_the_end_of_the_transaction(store: PostgresEventStore, database: Database) -> None:
    """Rule 4: an append's commit waits for the disk, whatever the session says; a stricter setting stays."""
    for asked, got in (("off", "local"), ("local", "local"), ("on", "on"), ("remote_apply", "remote_apply")):
        async with database.connection() as connection:
            await connection.execute(f"SET synchronous_commit = {asked}")
            async with connection.transaction():
                await store.append(f"order-{asked}", [OrderPlaced()], expected_version=0, connection=connection)
                assert await connection.fetchval("SHOW synchronous_commit") == got
            assert await connection.fetchval("SHOW synchronous_commit") == asked
            await connection.execute("RESET synchronous_commit")


async def test_writer_needs_no_right_but_to_call_the_function(store: PostgresEventStore, database: Database, writer_role: str) -> None:
    """Rule 4: writers have no INSERT."""
    async with database.connection() as connection:
        await connection.execute(f"GRANT USAGE ON SCHEMA headwater TO {writer_role}")
        for function in await connection.fetchval("SELECT array_agg(oid::regprocedure::text) FROM pg_proc WHERE proname LIKE 'append\\_%'"):
            await connection.execute(f"GRANT EXECUTE ON FUNCTION {function} TO {writer_role}")
        async with connection.transaction():
            await connection.execute(f"SET LOCAL ROLE {writer_role}")
            result = await store.append("order-1", [OrderPlaced()], expected_version=0, connection=connection)
            assert result.version == 1
            for statement in (
                "INSERT INTO headwater.streams (stream_name) VALUES ('order-2')",
                "INSERT INTO headwater.events SELECT * FROM headwater.events",
                "UPDATE headwater.events SET version = 9",
                "DELETE FROM headwater.events",
                "SELECT setval('headwater.global_position_seq', 1)",
                "SELECT nextval('headwater.global_position_seq')",
            ):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    async with connection.transaction():
                        await connection.execute(statement)
    assert await versions(store, "order-1") == [1]


async def test_decision_in_the_callers_transaction_commits_with_it(store: PostgresEventStore, database: Database) -> None:
    registry = EventRegistry()
    with pytest.raises(RuntimeError):
        async with database.transaction() as connection:
            decision = await decide(store, registry, counter, "conformance-1", 2, connection=connection)
            assert (decision.state, decision.result.version if decision.result else None) == (2, 2)
            raise RuntimeError
    assert await store.stream_version("conformance-1") == 0


async def test_lost_decision_in_the_callers_transaction_keeps_the_rest_of_it(store: PostgresEventStore, database: Database) -> None:
    """Somebody else appends between load and append: the attempt is undone, the caller's own work is not."""
    await decide(store, EventRegistry(), counter, "conformance-1", 1)

    class OvertakenOnce(PostgresEventStore):
        overtaken = False

        async def append(self, *args, **kwargs):
            if not self.overtaken:
                self.overtaken = True
                await decide(store, EventRegistry(), counter, "conformance-1", 1)
            return await super().append(*args, **kwargs)

    async with database.transaction() as connection:
        await store.append("order-1", [OrderPlaced()], expected_version=0, connection=connection)
        decision = await decide(OvertakenOnce(database), EventRegistry(), counter, "conformance-1", 1, connection=connection)
    assert decision.state == 3
    assert (await store.stream_version("conformance-1"), await store.stream_version("order-1")) == (3, 1)
