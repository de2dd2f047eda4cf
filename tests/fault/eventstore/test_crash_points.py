"""Appends are whole or absent, once, and leave nothing behind, wherever they are killed, cut off or cancelled."""

from __future__ import annotations

import pytest

from headwater.testing import check_crash_points
from headwater.testing.crash_points import CrashScenario, Fault
from tests.fault.eventstore import append_scenarios as scenarios


@pytest.mark.parametrize(
    "scenario",
    [
        scenarios.SingleAppend,
        scenarios.BatchAppend,
        scenarios.RepeatedAppend,
        scenarios.AppendInTransaction,
        scenarios.CallersTogether,
    ],
    ids=lambda scenario: scenario.__name__,
)
async def test_append_passes_every_crash_point(scenario: type[CrashScenario], postgres_dsn: str) -> None:
    report = await check_crash_points(scenario, postgres_dsn)
    print(report)
    for text in (*report.statements, *report.awaits): print("   ", text)
    assert report.statements[0] == "connect"
    assert report.count(Fault.KILL) == report.count(Fault.CONNECTION) > 0
