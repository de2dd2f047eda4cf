"""`headwater outbox add-partitions` as an operator runs it."""

from __future__ import annotations

import asyncio
import json
import subprocess
from uuid import uuid4

import pytest

from headwater.eventstore import PostgresEventStore
from headwater.kafka import KafkaSettings, KafkaTopics
from headwater.postgres import Database
from tests.acceptance.cli.conftest import Command
from tests.outbox_support import RelayOnServers, running


@pytest.fixture
async def servers(database: Database, kafka_bootstrap: str) -> RelayOnServers:
    settings = KafkaSettings.parse(kafka_bootstrap, client_id="headwater-test", topic_partitions=2)
    servers = RelayOnServers(database, PostgresEventStore(database), settings, f"order{uuid4().hex[:12]}")
    await servers.append(20)
    async with running(servers.relay()):
        await servers.all_relayed()
    return servers


async def test_partitions_are_added_and_the_refusals_say_what_to_do(servers: RelayOnServers, headwater: Command) -> None:
    async def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(headwater.run, "outbox", "add-partitions", *arguments, **where)

    topic = servers.category
    where = {"HEADWATER_POSTGRES": servers.database.dsn, "HEADWATER_KAFKA": servers.settings.address}
    nobody_to_ask = await run(topic, "--partitions", "4")
    assert (nobody_to_ask.returncode, "repeat it with --yes" in nobody_to_ask.stderr) == (2, True)
    unknown = await run("parcel", "--partitions", "4", "--yes", "--json")
    assert (unknown.returncode, "never relayed to" in unknown.stderr + unknown.stdout) == (2, True)
    async with running(servers.relay()):
        await servers.append(1)
        await servers.all_relayed()
        busy = await run(topic, "--partitions", "4", "--yes")
    assert busy.returncode == 1
    assert "this log is relayed now" in busy.stderr
    assert "end every process that runs its service" in busy.stderr
    done = await run(topic, "--partitions", "4", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"topic": topic, "was": 2, "partitions": 4, "is_changed": True, "through": "1:21", "groups": []}
    assert await KafkaTopics(servers.settings).describe([topic]) == {topic: 4}
    again = await run(topic, "--partitions", "4", "--yes")
    assert (again.returncode, "has 4 partitions already" in again.stdout) == (0, True)
