"""Consumers of a foreign topic that are killed at work: every record takes effect once, in order per key, and every bad one is buried once."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from headwater.eventstore import PostgresEventStore
from headwater.postgres import Database
from headwater.testing import eventually
from tests.support import full_count, write_evidence

KILLS = full_count(2, 30)
RECORDS_PER_ROUND = 200
KEYS = 5
ROOT = Path(__file__).parents[3]


async def start(config: dict[str, str]) -> asyncio.subprocess.Process:
    command = [sys.executable, "-m", "tests.fault.bus.foreign_process", json.dumps(config)]
    nowhere = asyncio.subprocess.DEVNULL
    return await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=nowhere, stderr=nowhere)


async def kill(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()


async def make_topic(bootstrap: str, name: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, 3, 1)])
    finally:
        await admin.close()


async def test_killed_consumers_repeat_and_lose_no_foreign_record(database: Database, kafka_bootstrap: str) -> None:
    chance, topic = random.Random(11), f"meters.{uuid4().hex[:8]}"
    config = {"dsn": database.dsn, "kafka": kafka_bootstrap, "topic": topic}
    expected: dict[str, list[int]] = {f"k{key}": [] for key in range(KEYS)}
    sent = bad = kills_at_work = 0

    async def applied() -> int:
        async with database.connection() as connection:
            return int(await connection.fetchval("SELECT coalesce(sum(next_offset), 0) FROM headwater.consumer_positions"))

    await make_topic(kafka_bootstrap, topic)
    producer = AIOKafkaProducer(bootstrap_servers=kafka_bootstrap)
    await producer.start()
    process = await start(config)
    try:
        for _ in range(KILLS):
            before = await applied()
            for _ in range(RECORDS_PER_ROUND):
                sent += 1
                key = f"k{chance.randrange(KEYS)}"
                is_bad = chance.random() < 0.05
                value = b"nonsense" if is_bad else json.dumps({"number": sent}).encode()
                bad += is_bad
                if not is_bad:
                    expected[key].append(sent)
                await producer.send(topic, value, key=key.encode())
            await producer.flush()
            goal = before + chance.randint(1, RECORDS_PER_ROUND // 2)

            async def is_at_work(goal: int = goal) -> bool:
                return await applied() >= goal

            await eventually(is_at_work, 60)
            kills_at_work += await applied() < sent
            await kill(process)
            process = await start(config)

        async def all_applied() -> bool:
            return await applied() == sent

        await eventually(all_applied, 60)
    finally:
        await kill(process)
        await producer.stop()
    store = PostgresEventStore(database)
    for key, numbers in expected.items():
        assert [json.loads(event.data)["number"] async for event in store.read_stream(f"seen-{topic}-{key}")] == numbers
    async with database.connection() as connection:
        letters = await connection.fetch("SELECT partition, record_offset FROM headwater.dead_letters")
    counts = Counter((row["partition"], row["record_offset"]) for row in letters)
    assert (len(counts), set(counts.values())) == (bad, {1})
    write_evidence("foreign-kills", {"records": sent, "bad": bad, "kills": KILLS, "kills_at_work": kills_at_work, "missing": 0, "twice": 0})
