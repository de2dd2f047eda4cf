"""Which log this is, across failovers, restored backups and copies."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from headwater.errors import LogDiverged
from headwater.eventstore import Checkpoint, PostgresEventStore
from headwater.messages import LogPosition
from headwater.postgres import Database
from headwater.testing import MigratedDatabases
from tests.integration.eventstore.logs import append


async def test_first_opener_names_the_log_and_all_others_agree(store: PostgresEventStore) -> None:
    identities = await asyncio.gather(*(store.identity() for _ in range(8)))
    assert len(set(identities)) == 1
    assert [(epoch.epoch, epoch.began_after) for epoch in identities[0].epochs] == [(1, 0)]


@pytest.mark.parametrize("what", ["timeline = '00000000'", "system_identifier = 1", "database_oid = 1"])
async def test_another_server_timeline_or_database_opens_an_epoch_at_the_cut(
    store: PostgresEventStore, other: asyncpg.Connection, what: str
) -> None:
    first = await store.identity()
    position = await append(store, count=3)
    await other.execute(f"UPDATE headwater.log_epochs SET {what}")
    second, third = await store.identity(), await store.identity()
    assert second == third
    assert second.log_id == first.log_id
    assert [(epoch.epoch, epoch.began_after) for epoch in second.epochs] == [(1, 0), (2, position)]
    assert second.locate(position) == LogPosition(1, position)
    assert second.locate(position + 1) == LogPosition(2, position + 1)
    assert second.locate(position) < second.locate(position + 1)


async def test_copied_database_continues_under_an_epoch_of_its_own(
    store: PostgresEventStore, database: Database, postgres_dsn: str, headwater_databases: MigratedDatabases
) -> None:
    original = await store.identity()
    await append(store, count=2)
    await database.close()
    copy_dsn = await asyncio.to_thread(headwater_databases.create, copy_of=postgres_dsn)
    async with Database(copy_dsn) as copy:
        identity = await PostgresEventStore(copy).identity()
    await asyncio.to_thread(headwater_databases.drop, copy_dsn)
    assert identity.log_id == original.log_id
    assert [(epoch.epoch, epoch.began_after) for epoch in identity.epochs] == [(1, 0), (2, 2)]


async def test_reader_of_a_lost_tail_is_told(store: PostgresEventStore, other: asyncpg.Connection) -> None:
    """A restored backup hands out the same positions again, to other events."""
    await append(store, count=3)
    read = (await store.read_log(after=0)).events[-1]
    checkpoint = Checkpoint(1, read.global_position, read.event_id)
    await store.verify_checkpoint(checkpoint)
    await other.execute("DELETE FROM headwater.events WHERE global_position = 3")
    with pytest.raises(LogDiverged, match="rebuilt"):
        await store.verify_checkpoint(checkpoint)
    await other.execute("SELECT setval('headwater.global_position_seq', 2)")
    assert await append(store) == 3
    with pytest.raises(LogDiverged):
        await store.verify_checkpoint(checkpoint)
