"""The decide loop on PostgreSQL: commands that count once, snapshots and cache, inside and beside a caller's transaction."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from headwater.eventstore import Decision, PostgresEventStore, PostgresSnapshotStore, Snapshots, StreamCache, decide
from headwater.messages import ANY
from headwater.postgres import Database
from headwater.randomness import uuid7
from headwater.testing import eventually
from headwater.testing.conformance import DecideConformance, SnapshotStoreConformance
from headwater.testing.conformance.deciding import EVERY, REGISTRY, STREAM, SUM, Add, Added, Sum
from tests.integration.eventstore.logs import SOMEBODY_WAITS_FOR_US


@pytest.fixture
async def snapshots(database: Database) -> PostgresSnapshotStore:
    return PostgresSnapshotStore(database)


class TestPostgresSnapshotStore(SnapshotStoreConformance):
    pass


class TestDecidingOnPostgres(DecideConformance):
    pass


# -- commands in the caller's transaction


async def test_repeated_command_inside_its_own_transaction(store: PostgresEventStore, database: Database) -> None:
    command_id = uuid7()
    async with database.transaction() as connection:
        first = await decide(store, REGISTRY, SUM, STREAM, Add(2), connection=connection, command_id=command_id)
        await decide(store, REGISTRY, SUM, STREAM, Add(1), connection=connection)
        assert await decide(store, REGISTRY, SUM, STREAM, Add(2), connection=connection, command_id=command_id) == first
    assert await decide(store, REGISTRY, SUM, STREAM, Add(2), command_id=command_id) == first
    assert await store.stream_version(STREAM) == 3


async def test_command_that_was_rolled_back_is_decided_anew(store: PostgresEventStore, database: Database) -> None:
    command_id = uuid7()
    with pytest.raises(RuntimeError):
        async with database.transaction() as connection:
            await decide(store, REGISTRY, SUM, STREAM, Add(1, "first"), connection=connection, command_id=command_id)
            raise RuntimeError
    decision = await decide(store, REGISTRY, SUM, STREAM, Add(1, "second"), command_id=command_id)
    assert decision.state == Sum(1, ("second",))


@pytest.mark.parametrize("others", [0, 1, 2])
@pytest.mark.parametrize("commits", [True, False])
async def test_twin_in_an_open_transaction_is_waited_for(store: PostgresEventStore, database: Database, others: int, commits: bool) -> None:
    """It holds the stream; then its decision is both callers', or it never was."""
    command_id, twins = uuid7(), list[Decision[Sum]]()
    async with database.connection() as connection:
        transaction = connection.transaction()
        await transaction.start()
        if others:
            await store.append(STREAM, [Added(amount=1)] * others, expected_version=ANY, connection=connection)
        twins.append(await decide(store, REGISTRY, SUM, STREAM, Add(1, "twin"), connection=connection, command_id=command_id))
        mine = asyncio.create_task(_decide_in_transaction(store, database, command_id))
        alone = asyncio.create_task(decide(store, REGISTRY, SUM, STREAM, Add(1, "alone"), command_id=command_id))
        await eventually(lambda: connection.fetchval(SOMEBODY_WAITS_FOR_US))
        await (transaction.commit() if commits else transaction.rollback())
        decisions = await asyncio.gather(mine, alone)
    assert decisions[0] == decisions[1]
    assert (decisions == twins * 2) is commits
    assert await store.stream_version(STREAM) == (others if commits else 0) + len(decisions[0].events)


async def _decide_in_transaction(store: PostgresEventStore, database: Database, command_id: object) -> Decision[Sum]:
    async with database.transaction() as connection:
        decision = await decide(store, REGISTRY, SUM, STREAM, Add(1, "mine"), connection=connection, command_id=command_id)
        # The lost attempt was undone to a savepoint: the transaction goes on.
        assert await connection.fetchval("SELECT 1") == 1
        return decision


async def test_sqlalchemy_session_carries_a_decision(
    store: PostgresEventStore, snapshots: PostgresSnapshotStore, postgres_dsn: str
) -> None:
    engine = create_async_engine(postgres_dsn.replace("postgresql://", "postgresql+asyncpg://"))
    await store.append(STREAM, [Added(amount=1)] * EVERY, expected_version=ANY)
    command_id = uuid7()
    async with AsyncSession(engine) as session:
        first = await decide(store, REGISTRY, SUM, STREAM, Add(1), connection=session, command_id=command_id, snapshots=snapshots)
        assert await snapshots.load(STREAM, "sum") is None
        await session.commit()
    assert await decide(store, REGISTRY, SUM, STREAM, Add(1), command_id=command_id) == first
    assert await snapshots.load(STREAM, "sum") is not None
    await engine.dispose()


# -- snapshots and cache beside an open transaction


async def test_nothing_of_an_uncommitted_transaction_is_believed_later(
    store: PostgresEventStore, snapshots: PostgresSnapshotStore, database: Database
) -> None:
    cache = StreamCache()
    await decide(store, REGISTRY, SUM, STREAM, Add(1, "kept"), snapshots=snapshots, cache=cache)
    with pytest.raises(RuntimeError):
        async with database.transaction() as connection:
            for _ in range(3 * EVERY):
                await decide(store, REGISTRY, SUM, STREAM, Add(2, "lost"), connection=connection, snapshots=snapshots, cache=cache)
            assert await snapshots.load(STREAM, "sum", connection=connection) is not None
            raise RuntimeError
    assert await snapshots.load(STREAM, "sum") is None
    # Others take the versions that were rolled back.
    await store.append(STREAM, [Added(amount=1, note="other")] * 3, expected_version=ANY)
    decision = await decide(store, REGISTRY, SUM, STREAM, Add(0), snapshots=snapshots, cache=cache)
    assert decision.state == Sum(4, ("kept", "other", "other", "other"))


async def test_cache_is_read_but_not_filled_inside_a_callers_transaction(store: PostgresEventStore, database: Database) -> None:
    cache = StreamCache()
    await decide(store, REGISTRY, SUM, STREAM, Add(2), cache=cache)
    await decide(store, REGISTRY, SUM, STREAM, Add(0), cache=cache)
    known = cache.get(STREAM, SUM)
    async with database.transaction() as connection:
        for stream_name in (STREAM, "conformance-2"):
            # Each finds what the one before it stored here.
            for _ in range(3):
                decision = await decide(store, REGISTRY, SUM, stream_name, Add(2), connection=connection, cache=cache)
            assert decision.state.total == await store.stream_version(stream_name, connection=connection)
    assert (cache.get(STREAM, SUM), len(cache)) == (known, 1)


async def test_transaction_too_old_for_the_cache_leaves_it_alone(
    store: PostgresEventStore, snapshots: PostgresSnapshotStore, database: Database
) -> None:
    cache = StreamCache()
    async with database.connection() as connection, connection.transaction(isolation="repeatable_read"):
        assert await store.stream_version(STREAM, connection=connection) == 0
        await store.append(STREAM, [Added(amount=1)] * EVERY, expected_version=0)
        await decide(store, REGISTRY, SUM, STREAM, Add(0), snapshots=snapshots, cache=cache)
        old = await decide(store, REGISTRY, SUM, STREAM, Add(0), connection=connection, snapshots=snapshots, cache=cache)
        assert old.state == Sum()
    known = cache.get(STREAM, SUM)
    assert known is not None
    assert (known.version, (await snapshots.load(STREAM, "sum")) is not None) == (EVERY, True)


async def test_snapshot_that_cannot_be_written_leaves_the_callers_transaction_whole(
    store: PostgresEventStore, snapshots: PostgresSnapshotStore, database: Database
) -> None:
    await store.append(STREAM, [Added(amount=1)] * EVERY, expected_version=0)
    async with database.connection() as other:
        await other.execute("ALTER TABLE headwater.snapshots ADD CONSTRAINT none_today CHECK (false)")
    async with database.transaction() as connection:
        await decide(store, REGISTRY, SUM, STREAM, Add(2), connection=connection, snapshots=snapshots)
    await decide(store, REGISTRY, SUM, STREAM, Add(2), snapshots=snapshots)
    assert await store.stream_version(STREAM) == EVERY + 3 + 2
    assert await snapshots.load(STREAM, "sum") is None


async def test_snapshot_locked_by_somebody_holds_up_no_decision_for_long(
    store: PostgresEventStore, snapshots: PostgresSnapshotStore, database: Database, other: asyncpg.Connection
) -> None:
    """Writing it is given up after a second; what was decided stands."""
    await store.append(STREAM, [Added(amount=1)] * EVERY, expected_version=0)
    async with other.transaction():
        await other.execute("LOCK TABLE headwater.snapshots IN EXCLUSIVE MODE")
        decision = await decide(store, REGISTRY, SUM, STREAM, Add(2), snapshots=snapshots)
        assert decision.result is not None
        assert await store.stream_version(STREAM) == decision.result.version
    assert await snapshots.load(STREAM, "sum") is None


async def test_log_that_lost_its_tail_and_grew_another(
    store: PostgresEventStore, snapshots: PostgresSnapshotStore, database: Database
) -> None:
    """A restored backup behind a running process: snapshot and cache are of events that are gone."""
    cache, often = StreamCache(), replace(SUM, snapshots=Snapshots(every=1))
    for regrown in (0, 2, 9):
        await store.append(STREAM, [Added(amount=1, note="kept")] * 3, expected_version=ANY)
        kept = await store.stream_version(STREAM)
        for _ in range(3):
            await decide(store, REGISTRY, often, STREAM, Add(2, "lost"), snapshots=snapshots, cache=cache)
        async with database.connection() as connection:
            await connection.execute("DELETE FROM headwater.events WHERE version > $1", kept)
        if regrown:
            await store.append(STREAM, [Added(amount=1, note="regrown")] * regrown, expected_version=kept)
        decision = await decide(store, REGISTRY, often, STREAM, Add(0), snapshots=snapshots, cache=cache)
        assert decision.state.total == await store.stream_version(STREAM)
        assert "lost" not in decision.state.notes
        cache.drop(STREAM, often)
        assert (await decide(store, REGISTRY, often, STREAM, Add(0), snapshots=snapshots, cache=cache)).state == decision.state
