"""`headwater groups`: who handles events, and moving a group from one source to the other."""

from __future__ import annotations

import asyncio
import json
from subprocess import CompletedProcess
from uuid import uuid4

from headwater.bus import PostgresEffects, log_topic
from headwater.eventstore import PostgresEventStore
from headwater.kafka import KafkaSettings, KafkaTopics, Partition
from headwater.messages import NewEvent
from headwater.postgres import Database
from tests.acceptance.cli.conftest import Command

CATEGORY = f"order{uuid4().hex[:8]}"


async def test_a_group_is_listed_moved_and_found_where_it_is(
    headwater: Command, database: Database, postgres_dsn: str, kafka_bootstrap: str
) -> None:
    async def run(*arguments: str, **environment: str) -> CompletedProcess[str]:
        where = {"HEADWATER_POSTGRES": postgres_dsn, "HEADWATER_KAFKA": kafka_bootstrap, **environment}
        return await asyncio.to_thread(headwater.run, "groups", *arguments, **where)

    assert "no group has worked here yet" in (await run("list")).stdout
    store = PostgresEventStore(database)
    await store.append(f"{CATEGORY}-1", [NewEvent("OrderPlaced", "{}")], expected_version=0)
    effects, log_id = PostgresEffects(database, store), (await store.identity()).log_id
    for number in range(8):
        await effects.claim("shop", Partition(log_topic(CATEGORY), number))
    async with database.connection() as connection:
        await connection.execute(
            "UPDATE headwater.consumer_positions SET next_offset = 2, marks = jsonb_build_object($1::text, '1:1')", str(log_id)
        )

    (group,) = json.loads((await run("list", "--json")).stdout)["groups"]
    assert (group["group"], group["source"], group["partitions"], group["parked_keys"]) == ("shop", "postgres", 8, 0)
    nobody_to_ask = await run("move", "shop", "--to", "kafka")
    assert nobody_to_ask.returncode == 2
    assert "repeat it with --yes" in nobody_to_ask.stderr
    assert (await run("move", "shop", "--to", "rabbit", "--yes")).returncode == 2
    unknown = await run("move", "shopp", "--to", "kafka", "--yes")
    assert unknown.returncode == 1
    assert "headwater groups list" in unknown.stderr

    moved = await run("move", "shop", "--to", "kafka", "--yes", "--json", HEADWATER_TOPIC_PARTITIONS="4")
    assert moved.returncode == 0, moved.stderr
    assert json.loads(moved.stdout) == {"group": "shop", "source": "kafka", "is_changed": True, "through": {CATEGORY: "1:1"}}
    assert await KafkaTopics(KafkaSettings.parse(kafka_bootstrap)).describe([CATEGORY]) == {CATEGORY: 4}
    again = await run("move", "shop", "--to", "kafka", "--yes")
    assert again.returncode == 0
    assert "fed by kafka already; nothing was changed" in again.stdout
    back = await run("move", "shop", "--to", "postgres", "--yes")
    assert back.returncode == 0, back.stderr
    assert CATEGORY in back.stdout
    assert "Set source: postgres" in back.stdout
