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
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from headwater.outbox import SHARDS
from headwater.testing.waiting import eventually
from tests.outbox_support import RelayOnServers, running
from tests.support import full_count, write_evidence

ROOT = Path(__file__).parents[3]
SEED = int(os.environ.get("HEADWATER_TEST_SEED", "20260711"))
KILLS = full_count(4, 30)
PAUSES = full_count(2, 10)
SHARED_FAULTS = full_count(2, 24)
LEASE_SECONDS = 1.0
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

    def terms(self) -> dict[str, int]:
        """The last term under which it relayed each shard."""
        found: dict[str, int] = {}
        for fact in self.facts():
            if fact["event"] == "relay_started":
                found[fact["shard"]] = max(fact["term"], found.get(fact["shard"], 0))
        return found

    def losses(self) -> int:
        """How many shards it lost to others."""
        return sum(fact["event"] == "lease_lost" for fact in self.facts())

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
                await eventually(lambda relay=relay: relay.terms(), 30)
                await asyncio.sleep(chance.uniform(0, 0.3))
            else:
                await asyncio.sleep(chance.uniform(0.2, 1.2))
            busy_kills += bool(relay.terms())
            await relay.kill()
    summary = {"kills": KILLS, "kills_while_relaying": busy_kills, "seconds": round(time.monotonic() - began, 1)}
    await conclude(servers, "relay_killed", summary)


def shards_of(relays: Iterable[RelayProcess]) -> list[set[str]]:
    """Which shards each relays: those that it took last of all."""
    terms = [relay.terms() for relay in relays]
    last = {shard: max((found.get(shard, 0), number) for number, found in enumerate(terms)) for shard in SHARDS}
    return [{shard for shard, (term, owner) in last.items() if term and owner == number} for number in range(len(terms))]


async def all_have_work(relays: Iterable[RelayProcess]) -> None:
    await eventually(lambda: all(shards_of(relays)), 40)


async def has_lost_all(relays: Sequence[RelayProcess], victim: RelayProcess) -> None:
    await eventually(lambda: not shards_of(relays)[relays.index(victim)], 40)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGSTOP")
async def test_frozen_and_replaced_relays_do_no_harm_when_they_thaw(servers: RelayOnServers, tmp_path: Path) -> None:
    chance = random.Random(SEED)
    began = time.monotonic()
    await servers.append(1_000)
    relays = [await RelayProcess.start(servers, tmp_path, f"pause-{number}") for number in range(2)]
    try:
        async with appending(servers):
            for number in range(PAUSES):
                await all_have_work(relays)
                victim = relays[number % 2]
                await asyncio.sleep(chance.uniform(0, 0.5))
                before = victim.losses()
                victim.process.send_signal(signal.SIGSTOP)
                await has_lost_all(relays, victim)
                await asyncio.sleep(chance.uniform(0, 0.3))
                victim.process.send_signal(signal.SIGCONT)
                await eventually(lambda victim=victim, before=before: victim.losses() > before, 30)
    finally:
        for relay in relays:
            await relay.kill()
    summary = {"pauses": PAUSES, "relays": 2, "seconds": round(time.monotonic() - began, 1)}
    await conclude(servers, "relay_paused", summary)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
async def test_three_relays_of_which_one_after_the_other_is_killed_or_frozen(servers: RelayOnServers, tmp_path: Path) -> None:
    chance = random.Random(SEED)
    began = time.monotonic()
    takeovers: list[float] = []
    await servers.append(1_000)
    relays = [await RelayProcess.start(servers, tmp_path, f"shared-{number}") for number in range(3)]
    try:
        async with appending(servers):
            for number in range(SHARED_FAULTS):
                await all_have_work(relays)
                victim = chance.choice(relays)
                held = shards_of(relays)[relays.index(victim)]
                since = time.monotonic()
                if number % 2:
                    await victim.kill()
                else:
                    victim.process.send_signal(signal.SIGSTOP)
                await has_lost_all(relays, victim)
                takeovers.append(time.monotonic() - since)
                assert held
                if number % 2:
                    relays[relays.index(victim)] = await RelayProcess.start(servers, tmp_path, f"shared-again-{number}")
                else:
                    victim.process.send_signal(signal.SIGCONT)
            await all_have_work(relays)
    finally:
        for relay in relays:
            await relay.kill()
    summary = {
        "faults_made": SHARED_FAULTS,
        "relays": 3,
        "lease_seconds": LEASE_SECONDS,
        "longest_takeover_seconds": round(max(takeovers), 1),
    }
    await conclude(servers, "relay_shared", summary | {"seconds": round(time.monotonic() - began, 1)})
