"""Decisions on streams with personal data: no plain text of theirs in any table, and none in use once it was forgotten."""

from __future__ import annotations

from dataclasses import replace

import pytest
import structlog

from headwater import Service
from headwater.config import Settings
from headwater.eventstore import PostgresEventStore, PostgresSnapshotStore
from headwater.postgres import Database
from headwater.privacy import KEY_AGE_SECONDS_MAX, PostgresSubjectKeys
from headwater.testing import FakeClock
from tests.integration.privacy.test_in_a_service import places_with
from tests.unit.eventstore.members import MEMBER, STREAM, Club, Member, Name, Pay, plain_member

COUNT_SNAPSHOTS = "SELECT count(*) FROM headwater.snapshots"


async def test_snapshots_of_a_service_hold_no_plain_text_and_come_redacted_once_forgotten(postgres_dsn: str, database: Database) -> None:
    service = Service("club", settings=Settings(postgres=postgres_dsn), cached_streams_max=10)
    async with service.connect():
        await service.decide(STREAM, Name("Ada Lovelace"), MEMBER)
        assert (await service.decide(STREAM, Pay(), MEMBER)).state == Member(member_id="ada", name="Ada Lovelace", paid=1)
        plain = plain_member()
        with structlog.testing.capture_logs() as facts:
            for _ in range(2):
                assert (await service.decide(STREAM, Pay(), plain)).state.name == "Ada Lovelace"
        assert [fact["event"] for fact in facts if fact["log_level"] == "warning"] == ["snapshots_not_kept"]
        assert await places_with(database, "Lovelace") == []
        assert "snapshots: headwater:sealed:1:" in await places_with(database, "headwater:sealed:1:")

    # A new process begins with the snapshot.
    async with service.connect():
        assert (await service.decide(STREAM, Pay(), MEMBER)).state.name == "Ada Lovelace"
        parts = service.open_parts()
        assert parts.stream_cache is not None
        assert len(parts.stream_cache) == 1
        assert await service.forget("ada") is not None
        assert len(parts.stream_cache) == 0
        for decider in (MEMBER, plain):
            assert (await service.decide(STREAM, Pay(), decider)).state.name == "[forgotten]"
    async with service.connect():
        assert (await service.decide(STREAM, Pay(), MEMBER)).state == Member(member_id="ada", name="[forgotten]", paid=7)
        async with database.connection() as connection:
            assert await connection.fetchval(COUNT_SNAPSHOTS) == 1
        assert "snapshots: [forgotten]" in await places_with(database, "[forgotten]"), "kept again, with nothing to hide"


async def test_snapshot_in_the_callers_transaction_is_sealed_and_goes_with_it(database: Database) -> None:
    """Its keys are made beside the transaction, which holds nobody up."""
    keys = PostgresSubjectKeys(database)
    club = Club(PostgresEventStore(database), keys, PostgresSnapshotStore(database))
    await club.decide(MEMBER, Name("Ada Lovelace"))
    async with database.connection() as beside:
        with pytest.raises(RuntimeError):
            async with database.transaction() as connection:
                await club.decide(MEMBER, Pay(), connection=connection)
                assert "headwater:sealed:1:" in await connection.fetchval("SELECT state FROM headwater.snapshots")
                raise RuntimeError
        assert await beside.fetchval(COUNT_SNAPSHOTS) == 0
    await keys.close()


async def test_what_another_process_forgot_is_forgotten_here_within_the_age_of_keys(database: Database) -> None:
    """Keys, snapshot and cache together take no longer than keys alone."""
    clock, log, snapshots = FakeClock(), PostgresEventStore(database), PostgresSnapshotStore(database)
    here_keys, there_keys = PostgresSubjectKeys(database), PostgresSubjectKeys(database)
    here, there = Club(log, here_keys, snapshots, clock), Club(log, there_keys, snapshots, clock)
    rare = replace(MEMBER, snapshots=replace(MEMBER.snapshots, every=2)) if MEMBER.snapshots else MEMBER
    for command in (Name("Ada"), Pay(), Pay()):
        await here.decide(rare, command, with_cache=True)
    await there.personal.forget("ada")
    await clock.advance(KEY_AGE_SECONDS_MAX - 0.001)
    assert (await here.decide(rare, Pay(), with_cache=True)).state.name == "Ada", "held here still"
    assert (await there.decide(rare, Pay(), with_cache=True)).state.name == "[forgotten]"
    await clock.advance(0.002)
    for _ in range(3):
        assert (await here.decide(rare, Pay(), with_cache=True)).state.name == "[forgotten]"
    assert await places_with(database, "Ada") == []
    for keys in (here_keys, there_keys):
        await keys.close()
