"""Relays killed and frozen at random moments: nothing missing from Kafka, nothing twice, the order kept, the chain of positions unbroken.

A small seeded part runs always; HEADWATER_TEST_FULL=1 runs the full counts and leaves a summary in docs/evidence.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from headwater.testing.waiting import eventually
from tests.outbox_support import RelayOnServers, running
from tests.support import full_count, write_evidence

ROOT = Path(__file__).parents[3]
SEED = int(os.environ.get("HEADWATER_TEST_SEED", "20260711"))
KILLS = full_count(6, 30)
PAUSES = full_count(2, 10)
LEASE_SECONDS = 0.6
EVENTS_MAX = 60_000


class RelayProcess:
    """A relay to be killed, frozen and thawed."""

    def __init__(self, process: asyncio.subprocess.Process, facts: Path) -> None:
        self.process, self._facts = process, facts

    @classmethod
    async def start(cls, servers: RelayOnServers, folder: Path, name: str) -> RelayProcess:
        facts = folder / f"{name}.jsonl"
        with facts.open("w") as out:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "tests.fault.outbox.relay_process",
                servers.database.dsn,
                servers.settings.address,
                str(LEASE_SECONDS),
                cwd=ROOT,
                stderr=out,
            )
        return cls(process, facts)

    def facts(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for line in self._facts.read_text().splitlines():
            with suppress(json.JSONDecodeError):
                found.append(json.loads(line))
        return found

    def term(self) -> int:
        """Of its last session; 0 before the first."""
        return max((fact["term"] for fact in self.facts() if fact["event"] == "relay_started"), default=0)

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def appending(servers: RelayOnServers) -> AsyncIterator[None]:
    """Three writers that never stop, so that a relay always has something on its way."""

    async def write(streams: int) -> None:
        while await servers.store.horizon() < EVENTS_MAX:
            await servers.append(random.randint(1, 40), streams=streams)
            await asyncio.sleep(0.005)

    writers = [asyncio.create_task(write(streams)) for streams in (5, 50, 500)]
    try:
        yield
    finally:
        for writer in writers:
            writer.cancel()
        await asyncio.gather(*writers, return_exceptions=True)


async def conclude(servers: RelayOnServers, name: str, summary: dict[str, Any]) -> None:
    """Let a last relay finish, and look at everything."""
    async with running(servers.relay()):
        await servers.all_relayed(60)
    faults = await servers.faults()
    summary |= {"seed": SEED, "events": await servers.store.horizon(), "faults": len(faults)}
    print(json.dumps(summary))
    write_evidence(name, summary)
    assert faults == []


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
async def test_killed_relays_leave_neither_hole_nor_duplicate(servers: RelayOnServers, tmp_path: Path) -> None:
    chance = random.Random(SEED)
    busy_kills = 0
    began = time.monotonic()
    await servers.append(2_000)
    async with appending(servers):
        for number in range(KILLS):
            relay = await RelayProcess.start(servers, tmp_path, f"kill-{number}")
            if chance.random() < 0.7:
                # Most die while they relay; the rest somewhere between birth and fence.
                await eventually(lambda relay=relay: relay.term(), 30)
                await asyncio.sleep(chance.uniform(0, 0.3))
            else:
                await asyncio.sleep(chance.uniform(0.2, 1.2))
            busy_kills += relay.term() > 0
            await relay.kill()
    summary = {"kills": KILLS, "kills_while_relaying": busy_kills, "seconds": round(time.monotonic() - began, 1)}
    await conclude(servers, "relay_killed", summary)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGSTOP")
async def test_frozen_and_replaced_relays_do_no_harm_when_they_thaw(servers: RelayOnServers, tmp_path: Path) -> None:
    chance = random.Random(SEED)
    began = time.monotonic()
    await servers.append(1_000)
    relays = [await RelayProcess.start(servers, tmp_path, f"pause-{number}") for number in range(2)]
    try:
        async with appending(servers):
            for _ in range(PAUSES):
                await eventually(lambda: max(relay.term() for relay in relays), 30)
                holder, heir = sorted(relays, key=lambda relay: -relay.term())
                before = holder.term()
                await asyncio.sleep(chance.uniform(0, 0.5))
                holder.process.send_signal(signal.SIGSTOP)
                await eventually(lambda heir=heir, before=before: heir.term() > before, 30)
                await asyncio.sleep(chance.uniform(0, 0.3))
                holder.process.send_signal(signal.SIGCONT)
                await eventually(lambda holder=holder: any("RelayFenced" in str(fact) for fact in holder.facts()), 30)
                await asyncio.sleep(0.2)
    finally:
        for relay in relays:
            await relay.kill()
    summary = {"pauses": PAUSES, "seconds": round(time.monotonic() - began, 1)}
    await conclude(servers, "relay_paused", summary)
