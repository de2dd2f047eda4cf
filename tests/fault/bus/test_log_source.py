"""Consumers of the log that are killed, paused, cut off, or lose their server, while writers append, abort and stall: every effect once, in order."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from headwater.embedded import EmbeddedPostgres
from headwater.errors import HeadwaterError
from headwater.eventstore import PostgresEventStore
from headwater.messages import ANY, NewEvent
from headwater.postgres import Database
from headwater.testing import MigratedDatabases, eventually
from tests.support import FULL, write_evidence

ROOT = Path(__file__).parents[3]
GROUP, CATEGORY = "counters", "counter"
STREAMS = 40
WRITERS = 3
LEASE_SECONDS = 1.5
WAIT_SECONDS = 300 if FULL else 60
EVENTS_AT_ONCE_MAX = 20
AHEAD_EVENTS_MAX = 2_000
"""So far the writers may be ahead, so that there is work at hand whenever something happens, and never only a backlog."""


class Aborted(Exception):
    """A writer changed its mind."""


class Bed:
    """A log that is written, processes that work on it, and what they did."""

    def __init__(self, server: EmbeddedPostgres, database: Database, event_count: int, seed: int) -> None:
        self.server, self.database, self.event_count = server, database, event_count
        self.chance = random.Random(seed)
        self.store = PostgresEventStore(database)
        self.processes: list[asyncio.subprocess.Process] = []
        self.numbers = iter(range(1, event_count + 1))
        self.written = self.aborted = self.started = 0
        self.summary: dict[str, int] = {}

    # -- writers ------------------------------------------------------------------------------------------------------

    async def write(self, seed: int) -> None:
        """Append until the numbers are used up; what may or may not have been stored is sent again under the same ids."""
        chance = random.Random(seed)
        while batch := [number for _, number in zip(range(chance.randint(1, EVENTS_AT_ONCE_MAX)), self.numbers, strict=False)]:
            stream = f"{CATEGORY}-{chance.randrange(STREAMS)}"
            events = [NewEvent("CounterMoved", json.dumps({"number": number})) for number in batch]
            if chance.random() < 0.2:
                await self._abort(stream, chance)
            await self._until_it_works(lambda stream=stream, events=events: self.store.append(stream, events, expected_version=ANY))
            self.written += len(batch)
            if self.written - await self.effect_count() > AHEAD_EVENTS_MAX:
                await eventually(lambda: self._is_behind(AHEAD_EVENTS_MAX // 2), WAIT_SECONDS)

    async def _abort(self, stream: str, chance: random.Random) -> None:
        """An append that stays open for a moment and is rolled back: the horizon waits, and positions stay holes."""
        with suppress(Aborted, HeadwaterError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            async with self.database.transaction() as connection:
                await self.store.append(stream, [NewEvent("CounterMoved", '{"number": -1}')], expected_version=ANY, connection=connection)
                await asyncio.sleep(chance.uniform(0, 0.02))
                self.aborted += 1
                raise Aborted

    async def _is_behind(self, events_max: int) -> bool:
        return self.written - await self.effect_count() < events_max

    @staticmethod
    async def _until_it_works(call: Callable[[], Awaitable[Any]]) -> Any:
        while True:
            try:
                return await call()
            except (HeadwaterError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
                if isinstance(error, HeadwaterError) and not error.retryable:
                    raise
                await asyncio.sleep(0.05)

    # -- members ------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        self.started += 1
        config = {
            "dsn": self.database.dsn,
            "name": f"member {self.started}",
            "group": GROUP,
            "category": CATEGORY,
            "lease_seconds": LEASE_SECONDS,
            "batch_size_max": 50,
        }
        command = [sys.executable, "-m", "tests.fault.bus.log_consumer_process", json.dumps(config)]
        self.processes.append(await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.DEVNULL))

    async def until_more_is_done(self) -> None:
        """A moment in the middle of the work that nobody chose."""
        goal = min(await self.effect_count() + self.chance.randint(50, 400), self.event_count)

        async def reached() -> bool:
            return await self.effect_count() >= goal

        await eventually(reached, WAIT_SECONDS)
        await asyncio.sleep(self.chance.uniform(0, 0.05))

    async def effect_count(self) -> int:
        return int(await self._until_it_works(lambda: self._value("SELECT count(*) FROM effects")))

    async def _value(self, statement: str) -> Any:
        async with self.database.connection() as connection:
            return await connection.fetchval(statement)

    async def owners(self) -> dict[tuple[str, int], int]:
        """The epoch of every partition."""
        async with self.database.connection() as connection:
            rows = await connection.fetch("SELECT topic, partition, epoch FROM headwater.consumer_positions WHERE group_name = $1", GROUP)
        return {(row["topic"], row["partition"]): row["epoch"] for row in rows}

    async def leases_of(self, pid: int) -> int:
        async with self.database.connection() as connection:
            return int(
                await connection.fetchval(
                    "SELECT count(*) FROM headwater.leases WHERE name LIKE '%/items/%' AND holder LIKE $1 AND expires_at > clock_timestamp()",
                    f"%/{pid}/%",
                )
            )

    # -- what can happen ----------------------------------------------------------------------------------------------

    async def kill(self) -> None:
        """SIGKILL one member, in the middle of its work; another takes its place."""
        victim = self.processes.pop(self.chance.randrange(len(self.processes)))
        victim.kill()
        await victim.wait()
        await self.start()

    async def pause(self) -> None:
        """SIGSTOP one member until others have everything that was its, then thaw it."""
        victim = self.chance.choice(self.processes)
        if not await self.leases_of(victim.pid):
            await eventually(lambda: self.leases_of(victim.pid), WAIT_SECONDS)
        before = await self.owners()
        victim.send_signal(signal.SIGSTOP)
        try:
            await eventually(lambda: self._has_lost_everything(victim.pid), WAIT_SECONDS)

            async def were_claimed() -> bool:
                return sum(epoch > before.get(partition, 0) for partition, epoch in (await self.owners()).items()) > 0

            await eventually(were_claimed, WAIT_SECONDS)
            await asyncio.sleep(self.chance.uniform(0, 0.2))
        finally:
            victim.send_signal(signal.SIGCONT)

    async def _has_lost_everything(self, pid: int) -> bool:
        return await self.leases_of(pid) == 0

    async def cut(self) -> None:
        """End connections of members at the server, each with even chance."""
        async with self.database.connection() as connection:
            rows = await connection.fetch("SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'member %'")
            for row in rows:
                if self.chance.random() < 0.5:
                    await connection.execute("SELECT pg_terminate_backend($1)", row["pid"])

    async def restart(self) -> None:
        """Crash PostgreSQL and start it again."""
        await asyncio.to_thread(self.server.crash_restart)

    # -- what came of it ----------------------------------------------------------------------------------------------

    async def check(self) -> dict[str, int]:
        """Every event of the log has its row and its answering event once, in the order of its stream; nothing is dead."""
        async with self.database.connection() as connection:
            log = await connection.fetch(
                "SELECT stream_name AS stream, array_agg((data->>'number')::int ORDER BY version) AS numbers FROM headwater.log "
                "WHERE type = 'CounterMoved' GROUP BY stream_name"
            )
            rows = await connection.fetch("SELECT stream, array_agg(number ORDER BY id) AS numbers FROM effects GROUP BY stream")
            answers = await connection.fetch(
                "SELECT substr(stream_name, 6) AS stream, array_agg((data->>'number')::int ORDER BY version) AS numbers FROM headwater.log "
                "WHERE type = 'CounterSeen' GROUP BY stream_name"
            )
            dead = await connection.fetchval("SELECT count(*) FROM headwater.dead_letters")
        expected = {row["stream"]: row["numbers"] for row in log}
        assert sorted(number for numbers in expected.values() for number in numbers) == list(range(1, self.event_count + 1))
        for found in (rows, answers):
            given = {row["stream"]: row["numbers"] for row in found}
            wanted = [number for numbers in expected.values() for number in numbers]
            got = [number for numbers in given.values() for number in numbers]
            assert sorted(set(wanted) - set(got)) == [], "missing"
            assert len(got) == len(set(got)), "repeated"
            assert given == expected, "out of order"
        assert dead == 0
        return {"events": self.event_count, "missing": 0, "repeated": 0, "out_of_order": 0, "dead_letters": dead, "aborted": self.aborted}


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedPostgres]:
    """A server of these tests' own, to crash."""
    with EmbeddedPostgres() as started:
        yield started


@asynccontextmanager
async def running(server: EmbeddedPostgres, event_count: int, seed: int) -> AsyncIterator[Bed]:
    """Writers and two members; in the end everything is written and handled."""
    async with Database(MigratedDatabases(server.dsn).create()) as database:
        async with database.connection() as connection:
            await connection.execute(
                "CREATE TABLE effects (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, stream text NOT NULL, number integer NOT NULL)"
            )
        bed = Bed(server, database, event_count, seed)
        try:
            await bed.start()
            await bed.start()
            async with asyncio.TaskGroup() as writing:
                for writer in range(WRITERS):
                    writing.create_task(bed.write(seed * 100 + writer))
                yield bed

            async def is_done() -> bool:
                assert all(process.returncode is None for process in bed.processes), "a member ended by itself"
                return await bed.effect_count() >= event_count

            await eventually(is_done, WAIT_SECONDS)
            bed.summary = await bed.check()
        finally:
            for process in bed.processes:
                with suppress(ProcessLookupError):
                    process.send_signal(signal.SIGCONT)
                    process.kill()
                await process.wait()


async def run_with(server: EmbeddedPostgres, faults: list[str], *, event_count: int, seed: int) -> dict[str, Any]:
    """Let the faults happen one after the other, each in the middle of the work."""
    began = time.monotonic()
    async with running(server, event_count, seed) as bed:
        for fault in faults:
            await bed.until_more_is_done()
            print(f"{time.monotonic() - began:5.1f} s: {fault} after {await bed.effect_count()} effects")
            await getattr(bed, fault)()
    return {**bed.summary, "faults": len(faults), "members_started": bed.started, "seconds": round(time.monotonic() - began)}


@pytest.mark.skipif(FULL, reason="at full count each of them has a run of its own")
async def test_every_effect_happens_once_through_kills_pauses_cuts_and_crashes(server: EmbeddedPostgres) -> None:
    await run_with(server, ["kill", "cut", "pause", "restart"], event_count=1_500, seed=1)


@pytest.mark.full
@pytest.mark.skipif(not FULL, reason="set HEADWATER_TEST_FULL=1")
@pytest.mark.parametrize(("fault", "count"), [("kill", 40), ("pause", 10), ("cut", 80), ("restart", 15)])
async def test_every_effect_of_many_happens_once_through(server: EmbeddedPostgres, fault: str, count: int) -> None:
    summary = await run_with(server, [fault] * count, event_count=50_000, seed=2)
    write_evidence("log_source_faults", {fault: summary})
