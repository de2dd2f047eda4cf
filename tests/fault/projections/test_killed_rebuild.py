"""Rebuilds and runners that are killed with no warning."""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path

from headwater.eventstore import PostgresEventStore
from headwater.postgres import Database
from headwater.projections import ReadModels, list_projections, rebuild
from tests.integration.projections.shop import UnitsOrdered, place, registry, running, units_of
from tests.support import SeededRuns

ROOT = Path(__file__).parents[3]
EVENTS = 15_000


async def _start(dsn: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.fault.projections.rebuilder", dsn, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )


async def _line(process: asyncio.subprocess.Process) -> tuple[int, bool] | None:
    assert process.stdout is not None
    words = (await process.stdout.readline()).split()
    return (int(words[0]), words[1] == b"True") if words else None


async def test_a_killed_rebuild_goes_on_and_equals_the_fold(database: Database, store: PostgresEventStore, postgres_dsn: str) -> None:
    await place(store, EVENTS, per_append=1_000)
    models = ReadModels(database, store, registry())
    for seed in (runs := SeededRuns("projections-killed-rebuild", default=1, full=30)):
        chance = random.Random(seed)
        kills, starts = 0, []
        async with running(database, store, [UnitsOrdered]):
            while True:
                process = await _start(postgres_dsn)
                first = await _line(process)
                assert first is not None
                starts.append(first[0])
                # Killed at a moment of its own choosing: after some batch, a random while later, or not at all.
                batches = chance.randrange(1, 4) if kills < 3 else 99
                while batches and (line := await _line(process)) is not None and not line[1]:
                    batches -= 1
                if batches == 0:
                    await asyncio.sleep(chance.random() * 0.05)
                    process.kill()
                    kills += 1
                code = await process.wait()
                if code == 0:
                    break
            await place(store, 5)
            row = await models.read(UnitsOrdered, "sku-0", consistency="strong")
        assert row is not None
        verification = await models.verify(UnitsOrdered)
        assert verification.is_equal, verification.differences[:3]
        assert starts == sorted(starts) or 0 in starts[1:], "a later run began before an earlier one, though nothing was switched"
        runs.record(seed, {"kills": kills, "resumed": sum(start > 0 for start in starts)})
    assert [version.role for version in await list_projections(database)] == ["live"]


async def test_two_runners_and_a_rebuild_apply_nothing_twice(database: Database, store: PostgresEventStore) -> None:
    models = ReadModels(database, store, registry())
    async with running(database, store, [UnitsOrdered], runners=2):
        writers = [asyncio.create_task(place(store, 400, per_append=10)) for _ in range(3)]
        while not all(writer.done() for writer in writers):
            await rebuild(database, store, registry(), UnitsOrdered)
        await asyncio.gather(*writers)
        row = await models.read(UnitsOrdered, "sku-0", consistency="strong", timeout_seconds=20)
    assert row is not None
    assert row.units == 3 * units_of(400)["sku-0"]
    assert (await models.verify(UnitsOrdered)).is_equal
