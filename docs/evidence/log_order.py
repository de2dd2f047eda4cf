"""What order in the log costs the writers: nothing, shared locks, or one exclusive lock. Writes log_order.json beside it.

    python docs/evidence/log_order.py [seconds for each mode]

16 writers append one event a transaction to streams of their own; in the second half of the modes a fifth of them pause up to 20 ms before
they commit, as transactions do that also ask somebody else something. One embedded PostgreSQL, durable, on this machine.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
import sys
import time
import uuid
from pathlib import Path

import asyncpg

from headwater.embedded import EmbeddedPostgres
from headwater.testing import MigratedDatabases

WRITERS = 16
ROUNDS = 3
APPEND = "SELECT headwater.append_events($1, NULL, ARRAY['T'], ARRAY['{}'::jsonb], NULL, ARRAY[$2::uuid])"
FUNCTION = "CREATE OR REPLACE FUNCTION headwater.take_append_lock() RETURNS void LANGUAGE plpgsql AS $$ BEGIN {} END $$"
MODES = {
    "shared locks (as built)": None,
    "no lock (skips events)": FUNCTION.format(""),
    "one exclusive lock": FUNCTION.format("PERFORM pg_advisory_xact_lock(1);"),
}


async def writer(dsn: str, number: int, until: float, pauses: bool) -> int:
    chance, count = random.Random(number), 0
    connection = await asyncpg.connect(dsn)
    while time.monotonic() < until:
        async with connection.transaction():
            await connection.fetchval(APPEND, f"bench-{number}x{count % 50}", uuid.uuid4())
            if pauses and chance.random() < 0.2:
                await asyncio.sleep(chance.random() * 0.02)
        count += 1
    await connection.close()
    return count


async def horizon_milliseconds(dsn: str, until: float) -> list[float]:
    connection, took = await asyncpg.connect(dsn), []
    while time.monotonic() < until:
        begin = time.perf_counter()
        await connection.fetchval("SELECT headwater.read_horizon()")
        took.append((time.perf_counter() - begin) * 1000)
        await asyncio.sleep(0.02)
    await connection.close()
    return took


async def measure(dsn: str, pauses: bool, seconds: float) -> dict[str, float]:
    until = time.monotonic() + seconds
    *counts, took = await asyncio.gather(*(writer(dsn, n, until, pauses) for n in range(WRITERS)), horizon_milliseconds(dsn, until))
    return {"appends_per_second": round(sum(counts) / seconds), "horizon_read_median_milliseconds": round(statistics.median(took), 2)}


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 5.0
    rounds: dict[tuple[str, bool], list[dict[str, float]]] = {}
    with EmbeddedPostgres() as server:
        # In turns, so that whatever else this machine does falls on all of them; the median of the rounds counts.
        for pauses, (name, sabotage) in [(pauses, mode) for pauses in (False, True) for _ in range(ROUNDS) for mode in MODES.items()]:
            databases = MigratedDatabases(server.dsn)
            dsn = databases.create()

            async def run(dsn: str = dsn, sabotage: str | None = sabotage, pauses: bool = pauses) -> dict[str, float]:
                if sabotage:
                    connection = await asyncpg.connect(dsn)
                    await connection.execute(sabotage)
                    await connection.close()
                return await measure(dsn, pauses, seconds)

            rounds.setdefault((name, pauses), []).append(asyncio.run(run()))
            databases.close()
    results = [
        {"order": name, "a fifth pause before commit": pauses, **{key: statistics.median(one[key] for one in taken) for key in taken[0]}}
        for (name, pauses), taken in rounds.items()
    ]
    for result in results:
        print(json.dumps(result))
    conditions = {"writers": WRITERS, "rounds": ROUNDS, "seconds": seconds, "cores": os.cpu_count(), "load": [round(load, 1) for load in os.getloadavg()]}
    Path(__file__).with_suffix(".json").write_text(json.dumps({"conditions": conditions, "results": results}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
