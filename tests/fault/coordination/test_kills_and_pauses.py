"""Members in processes of their own, killed, frozen and thawed over one real PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from headwater.postgres import Database
from headwater.testing.waiting import eventually
from tests.support import full_count, write_evidence

ROOT = Path(__file__).parents[3]
ITEMS = 6
LEASE_SECONDS = 1.0
DISTURBANCES = full_count(3, 60)
SEED = 20261126
WORK = """
CREATE TABLE work (item text PRIMARY KEY, term bigint NOT NULL, done bigint NOT NULL, refused bigint NOT NULL, at timestamptz NOT NULL);
CREATE FUNCTION work(the_item text, the_term bigint) RETURNS void LANGUAGE sql AS $$
    INSERT INTO work AS kept VALUES (the_item, the_term, 1, 0, clock_timestamp())
    ON CONFLICT (item) DO UPDATE
       SET term = greatest(kept.term, excluded.term),
           done = kept.done + (excluded.term >= kept.term)::int,
           refused = kept.refused + (excluded.term < kept.term)::int,
           at = clock_timestamp()
$$;
"""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")


class Processes:
    """The members."""

    def __init__(self, dsn: str, folder: Path) -> None:
        self._dsn, self._folder = dsn, folder
        self.running: list[asyncio.subprocess.Process] = []
        self._files: list[Path] = []

    async def start(self) -> asyncio.subprocess.Process:
        file = self._folder / f"member-{len(self._files)}.jsonl"
        self._files.append(file)
        with file.open("w") as out:
            arguments = ("-m", "tests.fault.coordination.sharing_process", self._dsn, str(ITEMS), str(LEASE_SECONDS))
            process = await asyncio.create_subprocess_exec(sys.executable, *arguments, cwd=ROOT, stderr=out)
        self.running.append(process)
        return process

    def facts(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for file in self._files:
            for line in file.read_text().splitlines():
                with suppress(json.JSONDecodeError):
                    found.append(json.loads(line))
        return found

    async def kill(self, process: asyncio.subprocess.Process) -> None:
        self.running.remove(process)
        process.kill()
        await process.wait()

    async def close(self) -> None:
        for process in list(self.running):
            await self.kill(process)


async def test_members_that_are_killed_and_frozen_are_replaced_and_never_share_a_term(database: Database, tmp_path: Path) -> None:
    chance = random.Random(SEED)
    async with database.connection() as connection:
        await connection.execute(WORK)
    processes = Processes(database.dsn, tmp_path)
    takeovers: list[float] = []
    try:
        for _ in range(3):
            await processes.start()
        await eventually(lambda: shares(database, 3), 30)
        for number in range(DISTURBANCES):
            victim = chance.choice(processes.running)
            before = await terms(database)
            is_frozen = number % 2 == 0
            if is_frozen:
                victim.send_signal(signal.SIGSTOP)
            else:
                await processes.kill(victim)
            began = asyncio.get_running_loop().time()
            await eventually(lambda: shares(database, 2), 30)
            takeovers.append(asyncio.get_running_loop().time() - began)
            assert all(term >= before.get(item, 0) for item, term in (await terms(database)).items())
            if is_frozen:
                victim.send_signal(signal.SIGCONT)
            else:
                await processes.start()
            await eventually(lambda: shares(database, 3), 30)
        facts = processes.facts()
    finally:
        await processes.close()
    taken = [(fact["item"], fact["term"]) for fact in facts if fact["event"] == "lease_gained"]
    summary = {"disturbances": DISTURBANCES, "taken": len(taken), "longest_takeover_seconds": round(max(takeovers), 1)}
    print(json.dumps(summary))
    write_evidence("sharing_on_postgres", summary)
    assert len(taken) == len(set(taken)), "a term was given to two"
    assert any(fact["event"] == "lease_lost" for fact in facts), "nobody thawed to find its leases lost"
    assert not [fact for fact in facts if fact["event"] == "shared_work_failed"]


async def shares(database: Database, members: int) -> bool:
    """Whether that many hold everything in fair shares, and work on it now."""
    async with database.connection() as connection:
        holders = await connection.fetch(
            "SELECT holder, count(*) AS items FROM headwater.leases WHERE name LIKE 'fault/items/%' AND expires_at > clock_timestamp() "
            "AND holder IS NOT NULL GROUP BY holder"
        )
        busy = await connection.fetchval("SELECT count(*) FROM work WHERE at > clock_timestamp() - interval '0.5 s'")
    return [row["items"] for row in holders] == [ITEMS // members] * members and busy == ITEMS


async def terms(database: Database) -> dict[str, int]:
    async with database.connection() as connection:
        return {row["item"]: row["term"] for row in await connection.fetch("SELECT item, term FROM work")}
