"""A tailing reader beside writers that pause and abort sees exactly the committed log, in order, in every seeded run."""

from __future__ import annotations

import contextlib

import asyncpg
import pytest

from headwater.testing import MigratedDatabases
from tests.fault.eventstore.tailing import TAKE_NO_LOCK, run_tail
from tests.support import SeededRuns, write_evidence

SABOTAGE_SEEDS_MAX = 5


async def test_reader_beside_writers_sees_exactly_the_committed_log(headwater_databases: MigratedDatabases) -> None:
    for seed in (runs := SeededRuns("tail", default=5, full=100)):
        with headwater_databases.fresh() as dsn:
            async with open_transactions(dsn) as still_open:
                # The reader must come to the end while the unrelated transactions are open: nothing waits for them.
                outcome = await run_tail(dsn, seed, meanwhile=still_open)
        assert (outcome.missed, outcome.phantoms, outcome.lost) == (0, 0, 0), f"seed {seed}: {outcome}"
        assert outcome.events > 500
        runs.record(seed, {"events": outcome.events, "missed": outcome.missed, "phantoms": outcome.phantoms, "reads": outcome.reads})
    assert len(runs.results) >= runs.count
    write_evidence("tail", {"summary": {"seeds": runs.count, "events": runs.total("events"), "missed": runs.total("missed")}})


@pytest.mark.parametrize(
    "sabotage",
    [
        pytest.param(TAKE_NO_LOCK, id="no append lock"),
        pytest.param("ALTER SEQUENCE headwater.global_position_seq CACHE 10", id="sequence with a cache"),
    ],
)
async def test_reader_misses_events_without_the_rule(headwater_databases: MigratedDatabases, sabotage: str) -> None:
    """The test above is able to fail: with the rule left out it finds what was missed, or the wrong order."""
    missed = 0
    for seed in range(1, SABOTAGE_SEEDS_MAX + 1):
        with headwater_databases.fresh() as dsn:
            try:
                missed += (await run_tail(dsn, seed, sabotage=sabotage)).missed
            except* AssertionError as out_of_order:
                assert "out of order" in str(out_of_order.exceptions)  # noqa: PT017 - a group
                missed += 1
        if missed:
            return
    pytest.fail(f"nothing was missed in {SABOTAGE_SEEDS_MAX} runs with the rule left out: the test proves nothing")


@contextlib.asynccontextmanager
async def open_transactions(dsn: str):
    """Three transactions, each with an id, left open: one READ COMMITTED, one REPEATABLE READ, one SERIALIZABLE."""
    connections = [await asyncpg.connect(dsn) for _ in range(3)]
    try:
        transactions = []
        for connection, isolation in zip(connections, ("read_committed", "repeatable_read", "serializable"), strict=True):
            transaction = connection.transaction(isolation=isolation)
            await transaction.start()
            await connection.fetchval("SELECT count(*), pg_current_xact_id() FROM headwater.events")
            transactions.append(transaction)

        async def still_open() -> None:
            for connection in connections:
                assert connection.is_in_transaction()
                assert (
                    await connection.fetchval(
                        "SELECT count(*) FROM pg_stat_activity WHERE pid = pg_backend_pid() AND backend_xid IS NOT NULL"
                    )
                    == 1
                )

        yield still_open
        for transaction in transactions:
            await transaction.rollback()
    finally:
        for connection in connections:
            connection.terminate()
