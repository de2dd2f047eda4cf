"""Appends are whole or absent, once, and leave nothing behind, wherever they are killed, cut off or cancelled."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from headwater.messages import ANY, AppendResult
from headwater.postgres import Database, sessions, translate_errors
from headwater.testing import check_crash_points, run_crash_point
from headwater.testing.crash_points import Callers, CrashScenario, Fault
from headwater.testing.stepping import Moment
from tests.fault.eventstore import append_scenarios as scenarios
from tests.support import write_evidence

SCENARIOS: list[type[CrashScenario]] = [
    scenarios.SingleAppend,
    scenarios.BatchAppend,
    scenarios.RepeatedAppend,
    scenarios.AppendInTransaction,
    scenarios.AppendToStreams,
    scenarios.ConditionalAppend,
    scenarios.CallersTogether,
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_append_passes_every_crash_point(scenario: type[CrashScenario], postgres_dsn: str) -> None:
    report = await check_crash_points(scenario, postgres_dsn)
    assert report.statements[0] == "connect"
    assert any("append_" in statement for statement in report.statements), "the append itself was never cut"
    statements, awaits = len(report.statements), len(report.awaits)
    for fault, expected in ((Fault.KILL, 3 * statements), (Fault.CONNECTION, 3 * statements), (Fault.CANCEL, statements + 2 * awaits)):
        # Where callers run beside each other, a few more or fewer may come than in the undisturbed run.
        assert report.count(fault) >= 0.9 * expected, str(report)
    write_evidence(f"crash-points-{scenario.__name__}", {"tried": str(report), "statements": list(report.statements)})


# -- the tool is able to fail


class NewIdsEachTime(scenarios.SingleAppend):
    """Repeats with other event ids, so an append whose reply was lost is there twice."""

    async def append(self, database: Database) -> AppendResult:
        return await scenarios.store_of(database).append(self.stream_name, scenarios.new_events(1), expected_version=ANY)

    async def recover(self, database: Database) -> None:
        if self.result is None:
            await self.append(database)

    async def check(self, database: Database) -> None:
        assert len(await scenarios.stored_ids(database, self.stream_name)) == 1, "stored twice"


class KeepsItsConnection(scenarios.SingleAppend):
    """Opens a transaction on a connection that nobody closes when it is cancelled."""

    async def act(self, database: Database, callers: Callers) -> None:
        self.connection = await database.connect()
        with translate_errors():
            await self.connection.execute("BEGIN")
            await asyncio.sleep(0)
            await self.connection.close()


class LetsTheDriverSpeak(scenarios.SingleAppend):
    """Hands on what the driver says of a broken connection."""

    async def act(self, database: Database, callers: Callers) -> None:
        connection = await database.connect()
        try:
            await connection.execute("SELECT 1")
        finally:
            connection.terminate()


class SwallowsCancellation(scenarios.SingleAppend):
    """Says that all is well when it was told to stop."""

    async def act(self, database: Database, callers: Callers) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await super().act(database, callers)


@pytest.mark.parametrize(
    ("scenario", "says"),
    [
        (NewIdsEachTime, r"killed at statement \d+, (after it was sent|reply lost) .*stored twice"),
        (KeepsItsConnection, "cancelled at await .*idle in transaction"),
        (LetsTheDriverSpeak, "cut off at statement .*it raised ConnectionDoesNotExistError"),
        (SwallowsCancellation, "cancelled at await .*swallowed"),
    ],
)
async def test_what_is_not_safe_is_found(
    scenario: type[CrashScenario], says: str, postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headwater.testing.leftovers.GONE_SECONDS", 1.0)
    with pytest.raises(AssertionError, match=says):
        await check_crash_points(scenario, postgres_dsn)


class ReadsTheHorizon(CrashScenario):
    """A single statement on a pooled connection that is not reset afterwards."""

    async def act(self, database: Database, callers: Callers) -> None:
        await scenarios.store_of(database).horizon()

    async def check(self, database: Database) -> None:
        assert await scenarios.store_of(database).horizon() == 0


async def test_cancelled_statement_is_not_left_prepared_and_open(postgres_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelled with the answer to its preparation there, a statement leaves an implicit transaction, which the pool's reset must end."""
    report = await check_crash_points(ReadsTheHorizon, postgres_dsn)
    points = [point for point in report.points if point.when is Moment.ANSWERED]
    monkeypatch.setattr("headwater.testing.leftovers.GONE_SECONDS", 1.0)
    monkeypatch.setattr(sessions.PooledConnection, "get_reset_query", lambda _: "")
    with pytest.raises(AssertionError, match="is active since"):
        for each in points:
            await run_crash_point(ReadsTheHorizon(), postgres_dsn, each)
