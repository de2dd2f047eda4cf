"""One topic, one database, and consumers in processes of their own between them, to be killed and paused."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from headwater.eventstore import PostgresEventStore
from headwater.messages import Event
from headwater.postgres import Database
from headwater.testing import eventually
from tests.fault.bus.consumer_process import CounterMoved
from tests.integration.bus.feeding import Feeder

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
async def opened_bed(database: Database, bootstrap: str, seed: int) -> AsyncIterator[Bed]:
    bed = Bed(database, bootstrap, seed)
    async with database.connection() as connection:
        await connection.execute(
            "CREATE TABLE effects (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, stream text NOT NULL, number integer NOT NULL)"
        )
        await connection.execute("CREATE TABLE mended (at timestamptz NOT NULL DEFAULT clock_timestamp())")
    async with bed.feeder:
        yield bed


async def end(process: asyncio.subprocess.Process, how: signal.Signals = signal.SIGKILL) -> None:
    if process.returncode is None:
        process.send_signal(how)
    await process.wait()
