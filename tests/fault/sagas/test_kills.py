"""Processes that are killed between steps and deadlines: every saga ends right, and nothing is sent twice."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from contextlib import suppress
from pathlib import Path

from headwater.eventstore import PostgresEventStore
from headwater.postgres import Database
from headwater.sagas import Sagas, SagaStatus
from headwater.testing import MigratedDatabases
from tests.integration.sagas.checking import amiss, types_by_order
from tests.support import SeededRuns
from tests.unit.sagas.orders import OrderPlaced

ORDERS = 42
KILLS = 6
END_SECONDS_MAX = 60
ROOT = Path(__file__).parents[3]


async def start(dsn: str, *, consumes: bool) -> asyncio.subprocess.Process:
    config = json.dumps({"dsn": dsn, "consumes": consumes})
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.integration.sagas.shop",
        config,
        cwd=ROOT,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )


async def kill(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()


async def open_sagas(sagas: Sagas) -> int:
    counts = await sagas.count()
    return ORDERS - counts[SagaStatus.COMPLETED] - counts[SagaStatus.COMPENSATED]


async def orders_under_fire(dsn: str, seed: int) -> dict[str, int]:
    """Place orders, kill one of two processes again and again, and let the last pair finish."""
    chance = random.Random(seed)
    async with Database(dsn, connections_max=4) as database:
        store, sagas = PostgresEventStore(database), Sagas(database)
        # The first takes events and deadlines, the second deadlines alone: they share that work, and race events for it.
        processes = [await start(dsn, consumes=True), await start(dsn, consumes=False)]
        try:
            kills = placed = 0
            deadline = time.monotonic() + END_SECONDS_MAX
            while kills < KILLS or placed < ORDERS or await open_sagas(sagas):
                assert time.monotonic() < deadline, f"seed {seed}: {await open_sagas(sagas)} sagas are open; {await sagas.list(limit=3)}"
                assert all(process.returncode is None for process in processes), f"seed {seed}: a process ended by itself"
                for _ in range(min(ORDERS // KILLS, ORDERS - placed)):
                    await store.append(f"order-{placed}", [OrderPlaced(order_id=str(placed))], expected_version=0)
                    placed += 1
                await asyncio.sleep(chance.uniform(0.6, 1.6) if kills < KILLS else 0.2)
                if kills < KILLS:
                    victim = chance.randrange(2)
                    await kill(processes[victim])
                    processes[victim] = await start(dsn, consumes=victim == 0)
                    kills += 1
        finally:
            for process in processes:
                await kill(process)
        stories = await types_by_order(store)
        wrong = [found for number in range(ORDERS) if (found := amiss(str(number), stories[str(number)]))]
        assert wrong == [], f"seed {seed}"
        async with database.connection() as connection:
            assert await connection.fetchval("SELECT count(*) FROM headwater.dead_letters") == 0
            assert await connection.fetchval("SELECT count(*) FROM headwater.saga_deadlines") == 0
        counts = await sagas.count()
        return {"kills": kills, "completed": counts[SagaStatus.COMPLETED], "compensated": counts[SagaStatus.COMPENSATED]}


async def test_killed_processes_leave_no_saga_behind(headwater_databases: MigratedDatabases) -> None:
    for seed in (runs := SeededRuns("saga_kills", default=1, full=20)):
        with headwater_databases.fresh() as dsn:
            runs.record(seed, await orders_under_fire(dsn, seed))
