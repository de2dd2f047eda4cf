"""Positions and dead letters as PostgreSQL keeps them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from uuid import uuid4

import pytest

from headwater.bus import LastRecord, Move, PartitionPosition, PostgresEffects
from headwater.errors import StorageUnavailable
from headwater.eventstore import PostgresEventStore
from headwater.kafka import Partition
from headwater.messages import ANY, LogPosition, NewEvent
from headwater.postgres import Database

ORDER_0 = Partition("order", 0)


@pytest.fixture
def effects(database: Database) -> PostgresEffects:
    return PostgresEffects(database, PostgresEventStore(database))


def moved(before: PartitionPosition, next_offset: int) -> Move:
    log_id = uuid4()
    position = LogPosition(1, next_offset)
    after = replace(before, next_offset=next_offset, marks={log_id: position}, last=LastRecord(next_offset - 1, log_id, position))
    return Move(before, after)


async def test_a_claim_raises_the_epoch_and_returns_what_was_kept(effects: PostgresEffects) -> None:
    first = await effects.claim("shop", ORDER_0)
    assert first == PartitionPosition(ORDER_0, 1, 0, {}, None)
    move = moved(first, 5)
    async with effects.transaction() as transaction:
        assert await transaction.advance("shop", [move]) == frozenset()
    assert await effects.claim("shop", ORDER_0) == replace(move.after, epoch=2)
    assert (await effects.claim("other", ORDER_0)).next_offset == 0


async def test_only_the_claimed_epoch_moves_and_only_from_where_it_is(effects: PostgresEffects) -> None:
    zombie = await effects.claim("shop", ORDER_0)
    other = await effects.claim("shop", Partition("order", 1))
    owner = await effects.claim("shop", ORDER_0)
    async with effects.transaction() as transaction:
        assert await transaction.advance("shop", [moved(zombie, 3), moved(other, 3)]) == {ORDER_0}
    async with effects.transaction() as transaction:
        assert await transaction.advance("shop", [moved(replace(owner, next_offset=1), 3)]) == {ORDER_0}
        assert await transaction.advance("shop", [moved(owner, 3)]) == frozenset()
    assert await effects.confirm("shop", zombie) is None
    confirmed = await effects.confirm("shop", owner)
    assert confirmed is not None
    assert confirmed.next_offset == 3


async def test_a_claim_waits_for_the_commit_under_way(effects: PostgresEffects) -> None:
    """So that the new owner starts behind what the old one still commits."""
    old = await effects.claim("shop", ORDER_0)
    async with effects.transaction() as transaction:
        assert not await transaction.advance("shop", [moved(old, 7)])
        claim = asyncio.create_task(effects.claim("shop", ORDER_0))
        await asyncio.sleep(0.1)
        assert not claim.done()
    assert (await claim).next_offset == 7


async def test_many_marks_survive_the_way_there_and_back(effects: PostgresEffects) -> None:
    claimed = await effects.claim("shop", ORDER_0)
    marks = {uuid4(): LogPosition(epoch, 2**62) for epoch in range(1, 50)}
    async with effects.transaction() as transaction:
        assert not await transaction.advance("shop", [Move(claimed, replace(claimed, next_offset=2**62, marks=marks))])
    assert (await effects.claim("shop", ORDER_0)).marks == marks


async def test_a_cut_connection_is_storage_unavailable(effects: PostgresEffects, database: Database) -> None:
    claimed = await effects.claim("shop", ORDER_0)
    with pytest.raises(StorageUnavailable):
        async with effects.transaction() as transaction:
            pid = await transaction.connection.fetchval("SELECT pg_backend_pid()")
            async with database.connection() as other:
                await other.execute("SELECT pg_terminate_backend($1)", pid)
            await transaction.advance("shop", [moved(claimed, 1)])
    confirmed = await effects.confirm("shop", claimed)
    assert confirmed == claimed


async def test_the_doorbell_rings_when_others_can_see_what_was_appended(database: Database) -> None:
    store, rings = PostgresEventStore(database), 0

    def ring() -> None:
        nonlocal rings
        rings += 1

    effects = PostgresEffects(database, store, on_commit=ring)
    async with effects.transaction() as transaction:
        await transaction.append("order-1", [NewEvent("OrderPlaced", "{}")], expected_version=ANY)
        assert rings == 0
    assert rings == 1
    assert len((await store.read_log(after=0)).events) == 1
    with pytest.raises(ZeroDivisionError):
        async with effects.transaction():
            raise ZeroDivisionError
    assert rings == 1
