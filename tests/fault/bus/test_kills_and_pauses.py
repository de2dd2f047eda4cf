"""Consumers that are killed, or paused, replaced and thawed, at moments nobody chose: every effect once, in order per stream."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from headwater.eventstore import PostgresEventStore
from headwater.messages import Event
from headwater.postgres import Database
from headwater.testing import eventually
from tests.fault.bus.consumer_process import CounterMoved
from tests.integration.bus.feeding import Feeder
from tests.support import FULL, full_count, write_evidence

KILLS = full_count(4, 30)
PAUSES = full_count(1, 5)
EVENTS_PER_ROUND = 300
STREAMS = 9
ROOT = Path(__file__).parents[3]


class Bed:
    """One topic, one database, and processes that work between them."""

    def __init__(self, database: Database, bootstrap: str, seed: int) -> None:
        self.database, self.bootstrap, self.chance = database, bootstrap, random.Random(seed)
        self.category = f"counter{uuid4().hex[:8]}"
        self.group = f"g-{self.category}"
        self.moved: type[Any] = type("CounterMoved", (CounterMoved,), {"__module__": __name__}, category=self.category)
        self.sent = 0
        self.feeder = Feeder(bootstrap, [self.category])

    async def feed(self, count: int) -> None:
        """Numbers go up within each stream."""
        facts: list[tuple[str, Event]] = []
        for _ in range(count):
            self.sent += 1
            facts.append((f"{self.category}-{self.chance.randrange(STREAMS)}", self.moved(number=self.sent)))
        await self.feeder.feed(*facts)

    async def start(self, **config: Any) -> asyncio.subprocess.Process:
        arguments = {"dsn": self.database.dsn, "kafka": self.bootstrap, "group": self.group, "category": self.category, **config}
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.fault.bus.consumer_process", json.dumps(arguments), cwd=ROOT, stdout=asyncio.subprocess.DEVNULL
        )

    async def applied(self) -> int:
        async with self.database.connection() as connection:
            found = await connection.fetchval("SELECT sum(next_offset) FROM headwater.consumer_positions WHERE group_name = $1", self.group)
        return int(found or 0)

    async def epochs(self) -> dict[int, int]:
        async with self.database.connection() as connection:
            rows = await connection.fetch("SELECT partition, epoch FROM headwater.consumer_positions WHERE group_name = $1", self.group)
        return {row["partition"]: row["epoch"] for row in rows}

    async def all_applied(self, timeout: float = 60) -> None:
        async def done() -> bool:
            return await self.applied() == self.sent

        await eventually(done, timeout=timeout)

    async def check(self) -> dict[str, int]:
        """Every effect once, in order per stream, in the table and in the log; nothing dead."""
        expected: dict[str, list[int]] = {}
        for event in self.feeder.sent:
            expected.setdefault(event.stream_name, []).append(json.loads(event.data)["number"])
        async with self.database.connection() as connection:
            rows = await connection.fetch("SELECT stream, array_agg(number ORDER BY id) AS numbers FROM effects GROUP BY stream")
            dead = await connection.fetchval("SELECT count(*) FROM headwater.dead_letters")
        assert {row["stream"]: row["numbers"] for row in rows} == expected
        store = PostgresEventStore(self.database)
        for stream_name, numbers in expected.items():
            seen = [json.loads(event.data)["number"] async for event in store.read_stream(f"seen-{stream_name}")]
            assert seen == numbers
        assert dead == 0
        return {"events": self.sent, "effects": sum(len(row["numbers"]) for row in rows), "missing": 0, "twice": 0, "dead_letters": dead}


@asynccontextmanager
async def _bed(database: Database, bootstrap: str, seed: int) -> AsyncIterator[Bed]:
    bed = Bed(database, bootstrap, seed)
    async with database.connection() as connection:
        await connection.execute(
            "CREATE TABLE effects (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, stream text NOT NULL, number integer NOT NULL)"
        )
        await connection.execute("CREATE TABLE mended (at timestamptz NOT NULL DEFAULT clock_timestamp())")
    async with bed.feeder:
        yield bed


async def _end(process: asyncio.subprocess.Process, how: signal.Signals = signal.SIGKILL) -> None:
    if process.returncode is None:
        process.send_signal(how)
    await process.wait()


async def test_every_effect_happens_once_whenever_the_consumer_is_killed(database: Database, kafka_bootstrap: str) -> None:
    """Two members; one of them is killed at a random moment of its work, again and again, while events flow."""
    began = time.monotonic()
    async with _bed(database, kafka_bootstrap, seed=1) as bed:
        processes = [await bed.start(), await bed.start()]
        kills_at_work = 0
        try:
            for _ in range(KILLS):
                before = await bed.applied()
                await bed.feed(EVENTS_PER_ROUND)
                goal = before + bed.chance.randint(1, EVENTS_PER_ROUND * 2 // 3)

                async def reached(goal: int = goal) -> bool:
                    return await bed.applied() >= goal

                await eventually(reached, timeout=60)
                await asyncio.sleep(bed.chance.uniform(0, 0.05))
                victim = processes.pop(bed.chance.randrange(len(processes)))
                kills_at_work += await bed.applied() < bed.sent
                await _end(victim)
                processes.append(await bed.start())
            await bed.all_applied()
        finally:
            for process in processes:
                await _end(process)
        summary = await bed.check()
    summary |= {"kills": KILLS, "kills_while_records_waited": kills_at_work, "seconds": round(time.monotonic() - began)}
    write_evidence("consumer_kills", summary)


async def test_a_consumer_paused_replaced_and_thawed_commits_nothing(database: Database, kafka_bootstrap: str) -> None:
    """SIGSTOP in the middle of its work; its session ends and another member claims its partitions; then it is thawed."""
    fenced = 0
    async with _bed(database, kafka_bootstrap, seed=2) as bed:
        for _ in range(PAUSES):
            zombie = await bed.start()
            successor = None
            try:
                before = await bed.applied()
                await bed.feed(EVENTS_PER_ROUND)

                async def moving(goal: int = before + EVENTS_PER_ROUND // 10) -> bool:
                    return await bed.applied() > goal

                await eventually(moving, timeout=60)
                zombie.send_signal(signal.SIGSTOP)
                frozen_at, epochs = await bed.applied(), await bed.epochs()
                await bed.feed(EVENTS_PER_ROUND)
                successor = await bed.start()

                async def taken_over(epochs: dict[int, int] = epochs) -> bool:
                    now = await bed.epochs()
                    return all(now[partition] > epoch for partition, epoch in epochs.items())

                await eventually(taken_over, timeout=90)
                zombie.send_signal(signal.SIGCONT)
                await bed.all_applied(timeout=90)
                fenced += frozen_at < bed.sent - EVENTS_PER_ROUND
                await bed.check()
            finally:
                zombie.send_signal(signal.SIGCONT)
                await _end(zombie)
                if successor is not None:
                    await _end(successor)
        summary = await bed.check()
    write_evidence("consumer_pauses", {**summary, "pauses": PAUSES, "paused_with_work_at_hand": fenced})


@pytest.mark.skipif(not FULL, reason="stopping in good order is covered by the unit tests; this takes many starts")
async def test_stopping_in_good_order_loses_nothing(database: Database, kafka_bootstrap: str) -> None:
    async with _bed(database, kafka_bootstrap, seed=3) as bed:
        for _ in range(5):
            process = await bed.start()
            await bed.feed(EVENTS_PER_ROUND)
            await asyncio.sleep(bed.chance.uniform(0.5, 2))
            await _end(process, signal.SIGINT)
        process = await bed.start()
        await bed.all_applied()
        await _end(process)
        await bed.check()
