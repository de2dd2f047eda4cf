"""The command that gives a topic more partitions is killed, or frozen and thawed, at each of its steps; then relays run, and it is run again."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from headwater.kafka import KafkaTopics
from headwater.outbox import SHARDS, AddedPartitions, KafkaRelayBroker, PartitionAdding, TopicContent, TopicNotDrained
from headwater.testing.waiting import eventually
from tests.fault.outbox.adding_process import STEPS
from tests.outbox_support import RelayOnServers, running
from tests.support import full_count

ROOT = Path(__file__).parents[3]
LEASE_SECONDS = 1.0
WAS, COUNT = 6, 8
KILLED_AT = STEPS if full_count(0, 1) else ("added", "recorded")
FROZEN_AT = ("handled", "fenced again") if full_count(0, 1) else ("fenced again",)
"""Some run always; HEADWATER_TEST_FULL=1 takes all. In memory, every single call is cut off (tests/unit/outbox/test_dividing.py)."""


@asynccontextmanager
async def standing_still(servers: RelayOnServers, step: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The command, at this step."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.fault.outbox.adding_process",
        servers.database.dsn,
        servers.settings.address,
        servers.category,
        str(COUNT),
        step,
        str(LEASE_SECONDS),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            # Facts of the log come before it.
            while (line := await process.stdout.readline()) != b"here\n":
                assert line, "it ended by itself"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def add(servers: RelayOnServers) -> AddedPartitions:
    async def everybody_has(_content: TopicContent) -> None: ...

    adding = PartitionAdding(
        servers.store, KafkaRelayBroker(servers.settings), servers.positions, topic=servers.category, partition_count=COUNT
    )
    return await adding.run(everybody_has)


async def added(servers: RelayOnServers) -> bool:
    """Once the dead one's leases have run out."""
    with suppress(TopicNotDrained):
        return (await add(servers)).partition_count == COUNT
    return False


async def count_recorded(servers: RelayOnServers) -> int:
    return (await servers.positions.load(SHARDS[0])).topics[servers.category]


async def relay_some(servers: RelayOnServers) -> None:
    """A relay goes on in the old way or the new, or stands still and says what to run; never in between."""
    await servers.append(60)
    async with running(servers.relay()) as relay:
        if (await KafkaTopics(servers.settings).describe([servers.category]))[servers.category] == await count_recorded(servers):
            await servers.all_relayed()
        else:
            await eventually(lambda: "headwater outbox add-partitions" in (relay.status().last_error or ""), 30)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
@pytest.mark.parametrize("step", KILLED_AT)
async def test_killed_at_any_step_it_is_run_again(servers: RelayOnServers, step: str) -> None:
    await servers.append(100)
    async with running(servers.relay()):
        await servers.all_relayed()
    async with standing_still(servers, step) as process:
        process.kill()
    assert await count_recorded(servers) == (COUNT if step == "recorded" else WAS)
    await relay_some(servers)
    await eventually(lambda: added(servers), 30)
    await relay_some(servers)
    assert await servers.faults() == []
    assert await count_recorded(servers) == COUNT


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGSTOP")
@pytest.mark.parametrize("step", FROZEN_AT)
async def test_frozen_past_its_leases_it_records_nothing_when_it_thaws(servers: RelayOnServers, step: str) -> None:
    """Relays went on meanwhile, or somebody else finished the work."""
    await servers.append(100)
    async with running(servers.relay()):
        await servers.all_relayed()
    async with standing_still(servers, step) as process:
        process.send_signal(signal.SIGSTOP)
        await eventually(lambda: are_free(servers), 30)
        await relay_some(servers)
        if step == "fenced again":
            assert await added(servers)
            await relay_some(servers)
        recorded = await count_recorded(servers)
        process.send_signal(signal.SIGCONT)
        await servers.append(20)
        async with running(servers.relay()):
            await servers.all_relayed()
    assert await count_recorded(servers) == recorded
    assert await servers.faults() == []


async def are_free(servers: RelayOnServers) -> bool:
    return not any(facts.is_held for facts in await servers.positions.leases.list("relay/"))
