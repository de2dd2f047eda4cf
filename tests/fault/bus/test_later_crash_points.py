"""Messages for later are delivered once and schedules fire once, wherever scheduling, cancelling, delivering and firing are killed, cut or cancelled."""

from __future__ import annotations

import random

import pytest

from headwater.testing import CrashPoint, check_crash_points, run_crash_point
from headwater.testing.crash_points import CrashScenario, Fault
from headwater.testing.postgres_proxy import Cut
from headwater.testing.stepping import Moment
from tests.fault.bus import later_scenarios as scenarios
from tests.support import FULL, write_evidence

POINTS_TRIED = 6
"""Of each scenario, on every change; at full count every one."""
SCENARIOS: list[type[CrashScenario]] = [
    scenarios.SchedulingOne,
    scenarios.Cancelling,
    scenarios.Delivering,
    scenarios.DeliveringTogether,
    scenarios.Firing,
    scenarios.FiringTogether,
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_each_happens_once_at_every_crash_point(scenario: type[CrashScenario], postgres_dsn: str) -> None:
    if not FULL:
        await some_points(scenario, postgres_dsn)
        return
    report = await check_crash_points(scenario, postgres_dsn)
    assert report.statements[0] == "connect"
    statements = len(report.statements)
    for fault in (Fault.KILL, Fault.CONNECTION):
        # Where workers run beside each other, one may find that the other has done it all.
        assert report.count(fault) >= 0.6 * 3 * statements, str(report)
    assert report.count(Fault.CANCEL) >= statements, str(report)
    write_evidence(f"later-crash-points-{scenario.__name__}", {"tried": str(report), "statements": list(report.statements)})


async def some_points(scenario: type[CrashScenario], dsn: str) -> None:
    """A few points, evenly over statements and awaits, of all kinds; the same in every run."""
    undisturbed = await run_crash_point(scenario(), dsn, None)
    everywhere = [
        *(CrashPoint(fault, number + 1, cut) for fault in (Fault.KILL, Fault.CONNECTION) for cut in Cut for number in range(len(undisturbed.statements))),
        *(CrashPoint(Fault.CANCEL, number + 1, Moment.SENT) for number in range(len(undisturbed.statements))),
        *(CrashPoint(Fault.CANCEL, number + 1, moment) for moment in (Moment.WAITING, Moment.ANSWERED) for number in range(len(undisturbed.awaits))),
    ]  # fmt: skip
    reached = 0
    for point in random.Random(scenario.__name__).sample(everywhere, POINTS_TRIED):
        try:
            reached += (await run_crash_point(scenario(), dsn, point)).was_reached
        except Exception as error:
            raise AssertionError(f"{point}: {error!r}") from error
    assert reached >= POINTS_TRIED // 2
