"""No event is skipped, repeated or misordered in any of 10,000 seeded interleavings; with a rule left out, some are."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator

import asyncpg
import pytest

from headwater.embedded import EmbeddedPostgres
from headwater.testing import MigratedDatabases
from tests.fault.eventstore.interleaving import Counts, Interleaving, Stage, open_stage
from tests.fault.eventstore.tailing import TAKE_NO_LOCK
from tests.support import SeededRuns, write_evidence

BATCH = 100
CRASH_BATCH = 10
SABOTAGE_SEEDS_MAX = 2_000
LOCK_TWO_TOO_HIGH = """
DO $do$
DECLARE whole text := pg_get_functiondef('headwater.take_append_lock'::regproc);
BEGIN
    ASSERT whole LIKE '%| last_drawn)%';
    EXECUTE replace(whole, '| last_drawn)', '| last_drawn + 2)');
END $do$"""
LOCKS_BEFORE_THE_HEAD = """
CREATE OR REPLACE FUNCTION headwater.read_horizon() RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    head   bigint;
    lowest bigint;
BEGIN
    SELECT min(((classid::bigint & 65535) << 32) | objid::bigint) INTO lowest FROM pg_locks
     WHERE locktype = 'advisory' AND objsubid = 1 AND classid::bigint >> 16 = headwater.append_lock_namespace();
    SELECT last_value - (NOT is_called)::int INTO head FROM headwater.global_position_seq;
    RETURN least(head, lowest);
END $$"""


async def play(stage: Stage, seeds: range, *, crashes: float = 0.05) -> Counts:
    counts = Counts()
    for seed in seeds:
        try:
            counts.add(await Interleaving(stage, seed, crashes=crashes).run())
        except Exception as error:
            raise AssertionError(f"interleaving {seed}: {error}") from error
    return counts


async def test_readers_see_exactly_the_log_in_every_interleaving(headwater_databases: MigratedDatabases) -> None:
    places: list[str] = []
    for batch in (runs := SeededRuns("interleavings", default=3, full=100)):
        with headwater_databases.fresh() as dsn:
            async with open_stage(dsn) as stage:
                places = stage.places
                counts = await play(stage, range((batch - 1) * BATCH, batch * BATCH))
                stops = sum((lane.stops for lane in stage.lanes), Counter[int]())
        runs.record(batch, {"interleavings": BATCH, **vars(counts), "stops": " ".join(str(stops[place]) for place in range(len(places)))})
    for happened in ("committed", "aborted", "killed", "prepared", "blocked", "readers_killed", "crashes"):
        assert runs.total(happened) > 0, f"nothing was ever {happened}: the seeds are too tame"
    totals = {name: runs.total(name) for name in ["interleavings", *vars(Counts())]}
    stops_by_place = [sum(counts) for counts in zip(*(map(int, run["stops"].split()) for run in runs.results.values()), strict=True)]
    write_evidence("interleavings", {"summary": {**totals, "skipped": 0, "repeated": 0, "misordered": 0}})
    if places:
        write_evidence(
            "interleavings",
            {
                "stops_by_place": {
                    f"{n} {place}": stops for n, (place, stops) in enumerate(zip(places, stops_by_place, strict=True)) if stops
                }
            },
        )


async def test_same_seed_gives_the_same_interleaving(headwater_databases: MigratedDatabases) -> None:
    traces = []
    for _ in range(2):
        with headwater_databases.fresh() as dsn:
            async with open_stage(dsn) as stage:
                played = [Interleaving(stage, seed, crashes=0.3) for seed in range(20)]
                for interleaving in played:
                    await interleaving.run()
                traces.append([interleaving.trace for interleaving in played])
    assert traces[0] == traces[1]


@pytest.mark.parametrize(
    "sabotage",
    [
        pytest.param(TAKE_NO_LOCK, id="no append lock"),
        pytest.param(LOCK_TWO_TOO_HIGH, id="lock two positions too high"),
        pytest.param(LOCKS_BEFORE_THE_HEAD, id="locks listed before the head is read"),
        pytest.param("ALTER SEQUENCE headwater.global_position_seq CACHE 10", id="sequence with a cache"),
    ],
)
async def test_readers_miss_events_without_the_rule(headwater_databases: MigratedDatabases, sabotage: str) -> None:
    """The test above is able to fail."""
    with headwater_databases.fresh() as dsn:
        connection = await asyncpg.connect(dsn)
        await connection.execute(sabotage)
        await connection.close()
        async with open_stage(dsn) as stage:
            with pytest.raises(AssertionError, match=r"interleaving \d+: (skipped|the log came out of order|an ack)") as caught:
                await play(stage, range(SABOTAGE_SEEDS_MAX), crashes=0)
    print(str(caught.value)[:200])


@pytest.fixture
def server() -> Iterator[EmbeddedPostgres]:
    """A server of this test's own, to crash."""
    with EmbeddedPostgres() as started:
        yield started


async def test_readers_see_exactly_the_log_through_real_crashes(server: EmbeddedPostgres) -> None:
    """Everybody is cut off in the middle of an interleaving, the sequence comes back wherever recovery puts it, and all go on."""
    dsn = MigratedDatabases(server.dsn).create()

    async def crash() -> None:
        await asyncio.to_thread(server.crash_restart)

    async with open_stage(dsn, crash) as stage:
        for batch in (runs := SeededRuns("interleavings-crashed", default=1, full=10)):
            counts = await play(stage, range(batch * CRASH_BATCH, (batch + 1) * CRASH_BATCH), crashes=0.5)
            runs.record(batch, {"interleavings": CRASH_BATCH, **vars(counts)})
    assert runs.total("crashes") > 0
    names = ["interleavings", *vars(Counts())]
    write_evidence("interleavings-crashed", {"summary": {name: runs.total(name) for name in names}})
