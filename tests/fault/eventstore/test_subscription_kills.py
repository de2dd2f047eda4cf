"""Subscribers that are killed and resumed beside writers that pause, abort and vanish see what they selected, once, in order."""

from __future__ import annotations

import asyncio
import random

import asyncpg

from headwater.eventstore import EVERYTHING, EventSelection, LogTail, PostgresEventStore
from headwater.messages import ANY, NewEvent, RecordedEvent
from headwater.postgres import Database
from headwater.testing import MigratedDatabases
from tests.fault.eventstore.tailing import TAKE_NO_LOCK, WRITERS, Committed, write
from tests.subscribing import LAST_TYPE, Consumer, read_all
from tests.support import SeededRuns, write_evidence

SABOTAGE_SEEDS_MAX = 5
TRANSACTIONS = 40
SELECTIONS = [
    EVERYTHING,
    EventSelection(types=("Rare", LAST_TYPE)),
    EventSelection(categories=("fault",)),
    EventSelection(stream_prefixes=("fault-1", "fault-last"), types=("Happened", LAST_TYPE)),
]


async def test_killed_and_resumed_subscribers_see_what_they_selected_once(headwater_databases: MigratedDatabases) -> None:
    for seed in (runs := SeededRuns("subscription_kills", default=3, full=100)):
        with headwater_databases.fresh() as dsn:
            consumers, log = await run(dsn, seed)
        for consumer in consumers:
            consumer.compare(log)
        kills = sum(consumer.kills for consumer in consumers)
        assert kills > 0
        runs.record(seed, {"events": len(log), "seen": sum(len(consumer.seen) for consumer in consumers), "kills": kills})
    totals = {field: runs.total(field) for field in ("events", "seen", "kills")}
    write_evidence("subscription_kills", {"runs": runs.count, "consumers": len(SELECTIONS), **totals, "skipped_or_repeated": 0})


async def test_subscribers_miss_events_without_the_lock(headwater_databases: MigratedDatabases) -> None:
    """The test above is able to fail."""
    for seed in range(1, SABOTAGE_SEEDS_MAX + 1):
        with headwater_databases.fresh() as dsn:
            connection = await asyncpg.connect(dsn)
            await connection.execute(TAKE_NO_LOCK)
            await connection.close()
            consumers, log = await run(dsn, seed)
        if any([event for event in log if consumer.selection.matches(event)] != consumer.seen for consumer in consumers):
            return
    raise AssertionError("nothing was missed with the lock taken out: the test proves nothing")


async def run(dsn: str, seed: int) -> tuple[list[Consumer], list[RecordedEvent]]:
    """One seeded run; the consumers, and the log in the end."""
    consumers = [Consumer(selection) for selection in SELECTIONS]
    # asyncpg complains in the loop about a TLS handshake that is cancelled.
    async with Database(f"{dsn}?sslmode=disable") as database:
        store = PostgresEventStore(database)
        tail = LogTail(store)

        async def write_all() -> None:
            async with asyncio.TaskGroup() as writers:
                for writer in range(WRITERS):
                    writers.create_task(write(dsn, writer, seed, TRANSACTIONS, Committed()))
                for _ in range(5):
                    await store.append("rare-1", [NewEvent("Rare", "{}")], expected_version=ANY)
            await store.append("fault-last", [NewEvent(LAST_TYPE, "{}")], expected_version=0)

        async def ring() -> None:
            # Readers that look all the time meet the most appends in flight.
            while True:
                tail.wake()
                await asyncio.sleep(0.001)

        ringer = asyncio.create_task(ring())
        async with asyncio.TaskGroup() as group:
            group.create_task(write_all())
            for number, consumer in enumerate(consumers):
                shared = tail if number else None
                group.create_task(consumer.consume_through_kills(store, random.Random(seed * 10 + number), shared))
        ringer.cancel()
        log = await read_all(store)
        await tail.close()
    return consumers, log
