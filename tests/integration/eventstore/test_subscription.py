"""Subscriptions over the log on PostgreSQL: beside writers, across processes, through crashes."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
from structlog.testing import capture_logs

from headwater.config import Settings
from headwater.embedded import EmbeddedPostgres
from headwater.errors import LogDiverged
from headwater.eventstore import (
    EventSelection,
    LogDoorbell,
    LogTail,
    PostgresEventStore,
    Subscription,
    WatchedEventStore,
    log_doorbell,
    subscription,
)
from headwater.eventstore import (
    tail as log_tail,
)
from headwater.messages import ANY, NewEvent
from headwater.postgres import Database
from headwater.service import Service
from headwater.testing import MigratedDatabases, eventually
from tests.integration.eventstore.logs import OrderPlaced, append
from tests.subscribing import LAST_TYPE, Consumer, read_all

LISTENERS = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = 4294967295 AND mode = 'ShareLock' AND granted"
APPEND_ELSEWHERE = """
import asyncio, sys
from headwater.config import Settings
from headwater.messages import ANY, Event
from headwater.service import Service

class OrderPlaced(Event):
    sku: str = "chai"

async def main() -> None:
    service = Service("elsewhere", settings=Settings(postgres=sys.argv[1]))
    async with service.connect():
        await service.store.append("order-1", [OrderPlaced()], expected_version=ANY)

asyncio.run(main())
"""


@asynccontextmanager
async def listening(database: Database) -> AsyncIterator[tuple[LogTail, LogDoorbell, WatchedEventStore]]:
    """What a process has that reads along: a tail, and a doorbell that hears others."""
    tails: list[LogTail] = []
    async with LogDoorbell(database, on_ring=lambda: [tail.wake() for tail in tails]) as doorbell:
        store = WatchedEventStore(PostgresEventStore(database), on_append=doorbell.ring)
        tails.append(LogTail(store))
        doorbell.listen()
        await eventually(lambda: doorbell.is_listening)
        yield tails[0], doorbell, store
        await tails[0].close()


@pytest.fixture
def no_polling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for a poll waits a minute."""
    monkeypatch.setattr(log_tail, "POLL_SECONDS_MIN", 60.0)
    monkeypatch.setattr(log_tail, "POLL_SECONDS_MAX", 60.0)


async def positions(reading: Subscription) -> list[int]:
    return [event.global_position for event in (await anext(reading)).events]


# -- beside writers


async def test_checkpoint_passes_holes_and_what_is_not_wanted(
    database: Database, store: PostgresEventStore, other: asyncpg.Connection
) -> None:
    await append(store, count=1000)
    # What a crash, or a large import that was undone, may leave.
    await other.execute("SELECT setval('headwater.global_position_seq', 2000000)")
    last = await append(store, count=1000)
    async with Subscription(store, EventSelection(types=("Never",))) as reading:
        batch = await anext(reading)
        assert (batch.events, batch.checkpoint.global_position) == ((), last)
    async with Subscription(store, EventSelection(types=("OrderPlaced",)), after=500) as reading:
        seen: list[int] = []
        while len(seen) < 1500:
            seen += await positions(reading)
    assert seen == [*range(501, 1001), *range(2000001, 2001001)]


async def test_log_that_lost_its_tail_is_told(store: PostgresEventStore, other: asyncpg.Connection) -> None:
    await append(store, count=5)
    async with Subscription(store) as reading:
        await anext(reading)
        # A backup of three events is restored.
        await other.execute("DELETE FROM headwater.events WHERE global_position > 3")
        await other.execute("SELECT setval('headwater.global_position_seq', 3); UPDATE headwater.log_epochs SET timeline = '0000000X'")
        with pytest.raises(LogDiverged):
            async with asyncio.timeout(20):
                await anext(reading)


async def test_restarts_of_the_server_are_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription, "RETRY_PAUSE_SECONDS_MAX", 0.1)
    with EmbeddedPostgres() as server:
        async with Database(MigratedDatabases(server.dsn).create()) as database, listening(database) as (tail, _, store):
            consumers = [Consumer(), Consumer(EventSelection(types=("Even", LAST_TYPE)))]
            readings = [asyncio.create_task(consumer.consume(store, random.Random(1), tail)) for consumer in consumers]
            with capture_logs() as facts:
                for restart in range(3):
                    for number in range(20):
                        await store.append("order-1", [NewEvent("Even" if number % 2 else "Odd", "{}")], expected_version=ANY)
                    await (
                        asyncio.to_thread(server.crash_restart) if restart else asyncio.to_thread(lambda: (server.kill(), server.start()))
                    )
                await store.append("order-1", [NewEvent(LAST_TYPE, "{}")], expected_version=60)
                async with asyncio.timeout(60):
                    await asyncio.gather(*readings)
            for consumer in consumers:
                consumer.compare(await read_all(store))
            assert {fact["event"] for fact in facts if fact["log_level"] == "error"} == set()


# -- the doorbell


@pytest.mark.usefixtures("no_polling")
async def test_append_in_another_process_is_heard_without_a_poll(postgres_dsn: str) -> None:
    service = Service("here", settings=Settings(postgres=postgres_dsn))
    async with service.connect():
        async with service.subscribe(OrderPlaced) as placed:
            await eventually(lambda: service.open_parts().doorbell.is_listening)
            for _ in range(2):
                waiting = asyncio.ensure_future(anext(placed))
                child = await asyncio.create_subprocess_exec(sys.executable, "-c", APPEND_ELSEWHERE, postgres_dsn)
                assert await child.wait() == 0
                async with asyncio.timeout(10):
                    assert await waiting == OrderPlaced()


@pytest.mark.usefixtures("no_polling")
async def test_lost_connection_is_listened_on_again(database: Database, other: asyncpg.Connection) -> None:
    async with Database(database.dsn) as elsewhere, listening(database) as (tail, doorbell, store), listening(elsewhere) as (_, _, writer):
        async with Subscription(store, tail=tail) as reading:
            for position in (1, 3):
                waiting = asyncio.create_task(positions(reading))
                await append(writer)
                async with asyncio.timeout(10):
                    assert await waiting == [position]
                with capture_logs() as facts:
                    waiting = asyncio.create_task(positions(reading))
                    cut = set(await other.fetch(LISTENERS))
                    await other.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE pid = ANY ($1)", [row["pid"] for row in cut])
                    await append(writer)
                    # Whatever was missed meanwhile is looked for when the connection is back.
                    async with asyncio.timeout(10):
                        assert await waiting == [position + 1]

                    async def is_back(cut: set[asyncpg.Record] = cut) -> bool:
                        return len(now := set(await other.fetch(LISTENERS))) == 2 and not now & cut and doorbell.is_listening

                    await eventually(is_back)
                assert "log_doorbell_lost" in [fact["event"] for fact in facts]


async def test_polling_finds_what_the_doorbell_lost(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening(database) as (tail, _, store):
        async with Subscription(store, tail=tail) as reading:
            waiting = asyncio.create_task(positions(reading))
            # An append of another driver, which rings nobody.
            async with database.connection() as connection:
                await connection.execute("SELECT headwater.append_events('order-1', 0, '{OrderPlaced}', ARRAY['{}'::jsonb])")
            async with asyncio.timeout(10):
                assert await waiting == [1]


@pytest.mark.usefixtures("no_polling")
async def test_ring_is_written_only_where_somebody_else_listens(database: Database, other: asyncpg.Connection) -> None:
    ring, show = log_doorbell._RING_DOORBELL, log_doorbell._SHOW_LISTENING
    assert await other.fetchval(ring) is False
    await other.fetchval(show)
    assert await other.fetchval(ring) is False, "it listens itself, and nobody else"
    async with database.connection() as connection:
        before = await connection.fetchval("SELECT pg_snapshot_xmax(pg_current_snapshot())")
        assert await connection.fetchval(ring) is True
        assert await connection.fetchval("SELECT pg_snapshot_xmax(pg_current_snapshot())") > before
    before = await other.fetchval("SELECT pg_snapshot_xmax(pg_current_snapshot())")
    await other.fetchval(ring)
    assert await other.fetchval("SELECT pg_snapshot_xmax(pg_current_snapshot())") == before, "an unheard ring writes nothing"


@pytest.mark.usefixtures("no_polling")
async def test_rings_are_coalesced(database: Database) -> None:
    rings: list[int] = []
    async with Database(database.dsn) as elsewhere, LogDoorbell(elsewhere, on_ring=lambda: rings.append(1)) as ear:
        ear.listen()
        await eventually(lambda: ear.is_listening)
        async with LogDoorbell(database, on_ring=lambda: None) as doorbell:
            rings.clear()
            for _ in range(1000):
                doorbell.ring()
                doorbell.ring()
                if len(rings) % 3 == 0:
                    await asyncio.sleep(0)
            await eventually(lambda: rings)
        assert 1 <= len(rings) < 100


async def test_behind_a_pooler_polling_alone_works_and_it_is_said_once(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    # A pooler tells its clients a process id of its own making.
    monkeypatch.setattr(asyncpg.Connection, "get_server_pid", lambda _: 1)
    tails: list[LogTail] = []
    with capture_logs() as facts:
        async with LogDoorbell(database, on_ring=lambda: [tail.wake() for tail in tails]) as doorbell:
            store = WatchedEventStore(PostgresEventStore(database), on_append=doorbell.ring)
            doorbell.listen()
            doorbell.ring()
            async with Subscription(store) as reading:
                for position in (1, 2, 3):
                    waiting = asyncio.create_task(positions(reading))
                    await append(store)
                    async with asyncio.timeout(10):
                        assert await waiting == [position]
            await eventually(lambda: "log_doorbell_unheard" in [fact["event"] for fact in facts])
            assert not doorbell.is_listening
    assert [fact["event"] for fact in facts].count("log_doorbell_unheard") == 1


async def test_ring_that_hangs_delays_no_append(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_doorbell, "STATEMENT_SECONDS_MAX", 0.5)
    with EmbeddedPostgres() as server:
        async with Database(MigratedDatabases(server.dsn).create()) as database, listening(database) as (_, _, store):
            async with database.connection() as connection:
                frozen = await connection.fetchval(LISTENERS)
            os.kill(frozen, signal.SIGSTOP)
            try:
                with capture_logs() as facts:
                    for _ in range(20):
                        async with asyncio.timeout(5):
                            await append(store)
                    await eventually(lambda: "log_doorbell_lost" in [fact["event"] for fact in facts])
            finally:
                os.kill(frozen, signal.SIGCONT)
            assert len(await read_all(store)) == 20


# -- what it costs


async def test_idle_subscriptions_cost_less_than_five_statements_a_second() -> None:
    with EmbeddedPostgres(settings={"log_statement": "all"}) as server:
        dsn = MigratedDatabases(server.dsn).create()
        services = [Service(f"idle{number}", settings=Settings(postgres=dsn)) for number in range(2)]
        async with services[0].connect(), services[1].connect():
            readings = [services[0].subscribe(OrderPlaced) for _ in range(5)]
            waiting = [asyncio.ensure_future(anext(reading, None)) for reading in readings]
            await services[1].store.append("order-1", [OrderPlaced()], expected_version=ANY)
            assert await asyncio.gather(*waiting) == [OrderPlaced()] * 5
            waiting = [asyncio.ensure_future(anext(reading, None)) for reading in readings]
            # The pauses between polls double up to a second.
            await eventually(lambda: horizon_reads(server) >= 7, timeout=20)
            before = len(statements(server))
            await asyncio.sleep(4)
            count = len(statements(server)) - before
            assert 2 <= count < 5 * 4, statements(server)[before:]
            for reading in readings:
                reading.stop()
            await asyncio.gather(*waiting)


def statements(server: EmbeddedPostgres) -> list[str]:
    return re.findall(r"LOG:  (?:execute|statement).*", server.log.read_text(encoding="utf-8"))


def horizon_reads(server: EmbeddedPostgres) -> int:
    return server.log.read_text(encoding="utf-8").count("headwater.read_horizon()")
