"""Which log this is, across failovers, restored backups and copies."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from headwater.errors import LogDiverged
from headwater.eventstore import ArchiveSelection, Checkpoint, PostgresEventStore, archive_streams
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


@pytest.mark.parametrize("way", ["the pool's", "one of its own", "somebody else's"])
async def test_first_append_on_a_new_connection_comes_after_the_cut(
    store: PostgresEventStore, database: Database, other: asyncpg.Connection, postgres_dsn: str, way: str
) -> None:
    """After a failover nobody asks which log this is before the first append; counted to the old epoch, readers ahead of it would drop it as old."""
    await store.identity()
    position = await append(store, count=3)
    await database.close()
    await other.execute("UPDATE headwater.log_epochs SET timeline = '00000000'")
    if way == "the pool's":
        async with Database(postgres_dsn) as reopened:
            first = await append(PostgresEventStore(reopened))
    else:
        connection = await (database.connect() if way == "one of its own" else asyncpg.connect(postgres_dsn))
        async with connection.transaction():
            first = await append(store, connection)
        await connection.close()
    epochs = await other.fetch("SELECT epoch, began_after FROM headwater.log_epochs ORDER BY epoch")
    assert [tuple(row) for row in epochs] == [(1, 0), (2, position)]
    assert first == position + 1


async def test_epoch_found_by_an_append_is_kept_when_its_transaction_is_not(
    store: PostgresEventStore, database: Database, other: asyncpg.Connection
) -> None:
    """Opened on a connection of its own: a transaction that stays open for long, or is prepared, holds nobody up."""
    await store.identity()
    position = await append(store)
    await other.execute("UPDATE headwater.log_epochs SET timeline = '00000000'")
    transaction = other.transaction()
    await transaction.start()
    await append(store, other)
    assert [(e.epoch, e.began_after) for e in (await asyncio.wait_for(store.identity(), 10)).epochs] == [(1, 0), (2, position)]
    await transaction.rollback()
    assert (await store.identity()).epoch == 2


async def test_cut_is_behind_what_is_archived(store: PostgresEventStore, database: Database, other: asyncpg.Connection) -> None:
    await store.identity()
    await append(store, stream_name="order-1")
    position = await append(store, stream_name="order-2", count=2)
    await store.close_stream("order-2")
    await archive_streams(database, ArchiveSelection(stream_names=("order-2",)))
    await other.execute("UPDATE headwater.log_epochs SET timeline = '00000000'")
    assert [(e.epoch, e.began_after) for e in (await store.identity()).epochs] == [(1, 0), (2, position)]


async def test_two_openers_with_old_snapshots_open_one_epoch(
    store: PostgresEventStore, other: asyncpg.Connection, postgres_dsn: str
) -> None:
    await store.identity()
    await other.execute("UPDATE headwater.log_epochs SET timeline = '00000000'")
    connection = await asyncpg.connect(postgres_dsn)
    first, second = connection.transaction(isolation="repeatable_read"), other.transaction(isolation="repeatable_read")
    await first.start()
    await second.start()
    for each in (connection, other):
        await each.fetchval("SELECT count(*) FROM headwater.log_epochs")
    await connection.fetch("SELECT * FROM headwater.open_log()")
    opening = asyncio.create_task(other.fetch("SELECT * FROM headwater.open_log()"))
    await asyncio.wait([opening], timeout=0.2)
    await first.commit()
    with pytest.raises(asyncpg.SerializationError):
        await opening
    await second.rollback()
    await connection.close()
    assert (await store.identity()).epoch == 2


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
