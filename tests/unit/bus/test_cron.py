"""When a cron expression is due, across daylight saving, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.bus import Cron, Missed, Schedules
from headwater.errors import UsageError
from headwater.messages import Event


class Ticked(Event):
    """Needs nothing."""


def due_times(cron: Cron, begin: datetime, count: int) -> list[str]:
    found: list[str] = []
    for _ in range(count):
        begin = cron.next_after(begin)
        found.append(f"{begin:%m-%d %H:%M}")
    return found


BERLIN = "Europe/Berlin"


def test_what_falls_into_the_hour_that_is_left_out_is_due_when_it_is_over() -> None:
    """On 29 March 2026 clocks go from 2:00 to 3:00, which is 1:00 UTC."""
    assert due_times(Cron.of("30 2 * * *", BERLIN), datetime(2026, 3, 28, 0, tzinfo=UTC), 3) == [
        "03-28 01:30",
        "03-29 01:00",
        "03-30 00:30",
    ]


def test_moments_that_fall_together_in_the_gap_are_due_once() -> None:
    assert due_times(Cron.of("0,30 2,3 * * *", BERLIN), datetime(2026, 3, 28, 12, tzinfo=UTC), 3) == [
        "03-29 01:00",
        "03-29 01:30",
        "03-30 00:00",
    ]


def test_what_comes_twice_when_clocks_are_put_back_is_due_the_first_time_alone() -> None:
    """On 25 October 2026 the hour from 2:00 to 3:00 comes twice, at 0:00 and at 1:00 UTC."""
    cron = Cron.of("15,45 2 * * *", BERLIN)
    assert due_times(cron, datetime(2026, 10, 24, 12, tzinfo=UTC), 3) == ["10-25 00:15", "10-25 00:45", "10-26 01:15"]
    # Also when somebody asks in the middle of the second one.
    assert due_times(cron, datetime(2026, 10, 25, 1, 20, tzinfo=UTC), 1) == ["10-26 01:15"]


def test_a_rhythm_goes_on_through_both() -> None:
    cron = Cron.of("*/30 * * * *", BERLIN)
    for begin in (datetime(2026, 3, 29, 0, 10, tzinfo=UTC), datetime(2026, 10, 25, 0, 10, tzinfo=UTC)):
        moment = begin
        for _ in range(6):
            last, moment = moment, cron.next_after(moment)
            assert moment - last <= timedelta(minutes=30)
            assert moment.minute in {0, 30}


@given(
    st.sampled_from(["* * * * *", "30 2 * * *", "0 */6 * * *", "15,45 1-3 * * *", "0 0 1 * *", "5 4 * * SUN", "*/7 * * * *"]),
    st.sampled_from(["UTC", BERLIN, "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]),
    st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1)),
    st.timedeltas(timedelta(0), timedelta(days=80)),
)
def test_the_latest_moment_is_the_last_that_going_forward_finds(expression: str, zone: str, begin: datetime, span: timedelta) -> None:
    cron = Cron.of(expression, zone)
    since = cron.next_after(begin.replace(tzinfo=UTC))
    until = since + span
    latest = cron.latest(since, until)
    assert since <= latest <= until
    assert latest == since or cron.next_after(latest - timedelta(seconds=1)) == latest
    assert cron.next_after(latest) > until


@pytest.mark.parametrize(
    "expression",
    ["", "* * * *", "61 * * * *", "0 0 30 2 *", "*/0 * * * *", "0 0 * * MON#9", "@daily", "1 " * 500, "0 0 * * * * *", "ü * * * *"],
)
def test_what_is_no_cron_expression_is_refused_with_an_example(expression: str) -> None:
    with pytest.raises(UsageError, match="every day at six"):
        Cron.of(expression)


@pytest.mark.parametrize("zone", ["", "Nowhere/City", "../../etc/passwd", "/etc/passwd", "Europe", "\x00"])
def test_unknown_time_zones_are_refused(zone: str) -> None:
    with pytest.raises(UsageError, match="Europe/Berlin"):
        Cron.of("* * * * *", zone)


def test_schedules_that_cannot_be_meant_are_refused_when_they_are_defined() -> None:
    schedules = Schedules()
    schedules.add("ticks", "* * * * *", Ticked)
    with pytest.raises(UsageError, match="two schedules"):
        schedules.add("ticks", "* * * * *", Ticked)
    with pytest.raises(UsageError, match="1 to 100"):
        schedules.add("no spaces", "* * * * *", Ticked)
    with pytest.raises(UsageError, match="latest, all, skip"):
        schedules.add("other", "* * * * *", Ticked, missed="some")

    async def later() -> Event:
        return Ticked()

    with pytest.raises(UsageError, match="plain function"):
        schedules.add("other", "* * * * *", later)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="take nothing, or the firing"):
        schedules.add("other", "* * * * *", lambda a, b: None)  # type: ignore[arg-type,misc]
    assert schedules.names == ("ticks",)


def test_what_to_fire_for_and_when_next() -> None:
    schedules = Schedules()
    by_policy = {policy: schedules.add(policy, "0 * * * *", Ticked, missed=policy) for policy in Missed}
    begin, now = datetime(2026, 1, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 4, 0, 30, tzinfo=UTC)
    four, five = datetime(2026, 1, 1, 4, tzinfo=UTC), datetime(2026, 1, 1, 5, tzinfo=UTC)
    assert by_policy[Missed.LATEST].decide(begin, now) == (four, five)
    assert by_policy[Missed.ALL].decide(begin, now) == (begin, datetime(2026, 1, 1, 2, tzinfo=UTC))
    assert by_policy[Missed.SKIP].decide(begin, now) == (four, five)
    assert by_policy[Missed.SKIP].decide(begin, now + timedelta(minutes=2)) == (None, five)
