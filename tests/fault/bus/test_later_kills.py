"""Processes that deliver and fire are killed and frozen: every message comes once, in order, and every second is fired once."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import orjson

from headwater.eventstore import PostgresEventStore
from headwater.messages import NewEvent
from headwater.outbox import DueTime, PostgresScheduledMessages
from headwater.postgres import Database
from headwater.testing import MigratedDatabases, eventually
from tests.fault.bus.later_process import SCHEDULE
from tests.support import SeededRuns

ROOT = Path(__file__).parents[3]
FAULTS = 8
KEYS = 6
MESSAGES_PER_FAULT = 60


async def start(dsn: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.fault.bus.later_process", dsn, cwd=ROOT, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )  # fmt: skip


async def kill(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()


class Messages:
    """What was scheduled: for each key the numbers by moment, in the order of scheduling."""

    def __init__(self, database: Database, chance: random.Random) -> None:
        self.scheduled, self.chance = PostgresScheduledMessages(database), chance
        self.expected: dict[int, list[tuple[datetime, int]]] = {key: [] for key in range(KEYS)}
        self.count = 0

    async def schedule(self) -> None:
        key, now = self.chance.randrange(KEYS), await self.now()
        moment = now.replace(microsecond=0) + timedelta(seconds=self.chance.choice([0, 1, 1, 2]))
        self.count += 1
        message = NewEvent("Reminded", f'{{"number": {self.count}}}')
        kept = await self.scheduled.schedule(f"reminding-outbox:{key}", message, DueTime(moment, None))
        self.expected[key].append((kept.due_at, self.count))

    async def now(self) -> datetime:
        async with self.scheduled._database.connection() as connection:
            found: datetime = await connection.fetchval("SELECT clock_timestamp()")
            return found


async def under_fire(dsn: str, seed: int) -> dict[str, int]:
    """Schedule, and kill or freeze one of two processes, again and again."""
    chance = random.Random(seed)
    async with Database(dsn, connections_max=4) as database:
        store, messages = PostgresEventStore(database), Messages(database, chance)
        processes = [await start(dsn), await start(dsn)]
        kills = 0
        try:
            for _ in range(FAULTS):
                for _ in range(MESSAGES_PER_FAULT):
                    await messages.schedule()
                victim = chance.randrange(2)
                if chance.random() < 0.3:
                    processes[victim].send_signal(signal.SIGSTOP)
                    for _ in range(MESSAGES_PER_FAULT):
                        await messages.schedule()
                    processes[victim].send_signal(signal.SIGCONT)
                else:
                    await kill(processes[victim])
                    kills += 1
                    processes[victim] = await start(dsn)

            async def all_delivered() -> bool:
                return await messages.scheduled.seconds_to_next() is None

            await eventually(all_delivered, 30)
            # One moment of the schedule more, after the last fault.
            fired = await store.stream_version(f"seconds-outbox:{SCHEDULE}")

            async def one_more() -> bool:
                return await store.stream_version(f"seconds-outbox:{SCHEDULE}") > fired

            await eventually(one_more, 30)
        finally:
            for process in processes:
                await kill(process)
        for key, expected in messages.expected.items():
            stored = [orjson.loads(event.data)["number"] async for event in store.read_stream(f"reminding-outbox:{key}")]
            assert sorted(stored) == sorted(number for _, number in expected), f"seed {seed}, key {key}: missing or repeated"
            moments = {number: due_at for due_at, number in expected}
            for due_at in set(moments.values()):
                together = [number for number in stored if moments[number] == due_at]
                assert together == sorted(together), f"seed {seed}, key {key}: {due_at} out of order"
        seconds = [orjson.loads(event.data)["due_at"] async for event in store.read_stream(f"seconds-outbox:{SCHEDULE}")]
        parsed = [datetime.fromisoformat(text) for text in seconds]
        assert parsed == [parsed[0] + timedelta(seconds=number) for number in range(len(parsed))], (
            f"seed {seed}: a second is missing or repeated"
        )
        return {"messages": messages.count, "kills": kills, "freezes": FAULTS - kills, "firings": len(parsed)}


async def test_killed_and_frozen_processes_lose_and_repeat_nothing(headwater_databases: MigratedDatabases) -> None:
    for seed in (runs := SeededRuns("later_kills", default=1, full=20)):
        with headwater_databases.fresh() as dsn:
            runs.record(seed, await under_fire(dsn, seed))
