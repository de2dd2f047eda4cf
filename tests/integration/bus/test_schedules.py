"""Recurring schedules, in memory and on PostgreSQL: each moment fires once, and missed ones as the schedule says."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from headwater.bus import Clockwork, Cron, Missed, ScheduleDesk, Schedules
from headwater.messages import Event
from headwater.testing import eventually
from tests.integration.bus.later_worlds import SERVICE, MemoryWorld, NightCame, PostgresWorld, World, nightly

HOURLY = "0 * * * *"


def whole_hour(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)


async def test_a_schedule_is_registered_for_its_next_moment_and_does_not_fire_before(world: World) -> None:
    nightly(world.schedules, HOURLY)
    assert await world.fire() == 0
    seconds = await world.kept_schedules.seconds_to_next(["nightly"])
    assert seconds is not None
    assert 0 < seconds <= 3600


async def test_the_latest_missed_moment_fires_once_and_the_rest_is_skipped(world: World) -> None:
    nightly(world.schedules, HOURLY)
    await world.fire()
    await world.miss_hours(6)
    assert await world.fire() == 1
    (event,) = await world.nights()
    assert event.due_at == whole_hour(await world.now())
    assert await world.fire() == 0


async def test_all_missed_moments_fire_in_order_where_the_schedule_says_so(world: World) -> None:
    nightly(world.schedules, HOURLY, missed=Missed.ALL)
    await world.fire()
    await world.miss_hours(6)
    assert await world.fire() == 6
    latest = whole_hour(await world.now())
    assert [event.due_at for event in await world.nights()] == [latest - timedelta(hours=hours) for hours in range(5, -1, -1)]


async def test_missed_moments_are_skipped_where_the_schedule_says_so(world: World) -> None:
    """A cron expression whose last moment is more than a minute ago, whatever the time."""
    moment = await world.now() - timedelta(minutes=30)
    nightly(world.schedules, f"{moment.minute} * * * *", missed=Missed.SKIP)
    await world.fire()
    await world.miss_hours(3)
    assert await world.fire() == 1
    assert await world.nights() == []
    seconds = await world.kept_schedules.seconds_to_next(["nightly"])
    assert seconds is not None
    assert 0 < seconds <= 3600


async def test_many_firers_at_once_fire_each_moment_once(world: World) -> None:
    nightly(world.schedules, HOURLY, missed=Missed.ALL)
    await world.fire()
    await world.miss_hours(40)
    firers = [Clockwork(world.firer(), poll_seconds_max=0.02) for _ in range(4)]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(firer.run()) for firer in firers]

        async def all_fired() -> bool:
            seconds = await world.kept_schedules.seconds_to_next(["nightly"])
            return seconds is not None and seconds > 0

        await eventually(all_fired, 20)
        for task in tasks:
            task.cancel()
    moments = [event.due_at for event in await world.nights()]
    assert moments == sorted(set(moments))
    assert len(moments) == 40
    if isinstance(world, PostgresWorld):
        # None fired a moment beside another, only to find its message stored.
        (status,) = await ScheduleDesk(world.database).list()
        assert status.fired_count == 40


async def test_a_function_that_raises_is_tried_again_and_keeps_others_from_nothing(world: World) -> None:
    troubles = ["not yet"]

    def make() -> Event | None:
        if troubles:
            raise ValueError(troubles.pop())
        return NightCame(due_at=datetime(2026, 1, 1, tzinfo=UTC), is_late=False)

    world.schedules.add("troubled", HOURLY, make)
    nightly(world.schedules, HOURLY)
    await world.fire()
    await world.miss_hours(1)
    assert await world.fire() == 2
    assert len(await world.nights()) == 1
    await world.let_pass(2)
    assert await world.fire() == 1
    assert len(await world.nights()) == 2


async def test_a_function_may_have_nothing_to_say(world: World) -> None:
    world.schedules.add("silent", HOURLY, lambda: None)
    await world.fire()
    await world.miss_hours(2)
    assert await world.fire() == 1
    assert await world.recorded() == ()


async def test_registering_again_keeps_the_moment_that_was_missed_and_a_changed_expression_begins_anew(world: World) -> None:
    nightly(world.schedules, HOURLY)
    await world.fire()
    await world.miss_hours(5)
    changed = Schedules()
    nightly(changed, "30 12 1 1 *")
    assert await world.fire(changed) == 0
    again = Schedules()
    nightly(again, "30 12 1 1 *", timezone="Asia/Tokyo")
    assert await world.fire(again) == 0
    # A process with the old code goes by what was registered last.
    assert await world.kept_schedules.seconds_to_next(["nightly"]) > 0  # type: ignore[operator]
    await world.miss_hours(366 * 24)
    old = Schedules()
    nightly(old, HOURLY)
    assert await world.firer(old).do_next()
    (event,) = await world.nights()
    assert (event.due_at.astimezone(UTC).minute, event.due_at.astimezone(UTC).hour) == (30, 3)


async def test_the_firing_tells_its_moment_in_the_schedules_zone() -> None:
    world = MemoryWorld()
    nightly(world.schedules, "0 6 * * *", timezone="America/New_York")
    await world.fire()
    await world.miss_hours(24)
    await world.fire()
    (event,) = await world.nights()
    assert event.due_at == datetime(2026, 1, 1, 6, tzinfo=ZoneInfo("America/New_York"))
    assert event.is_late


async def test_the_desk_shows_schedules_and_removes_one(database: object) -> None:
    world = PostgresWorld(database)  # type: ignore[arg-type]
    nightly(world.schedules, HOURLY)
    await world.fire()
    await world.miss_hours(2)
    await world.fire()
    desk = ScheduleDesk(world.database)
    (status,) = await desk.list()
    assert (status.service_name, status.name, status.cron, status.timezone, status.fired_count) == (SERVICE, "nightly", HOURLY, "UTC", 1)
    assert status.last_due_at == whole_hour(await world.now())
    assert await desk.list(service_name="other") == ()
    assert await desk.remove(SERVICE, "nightly")
    assert not await desk.remove(SERVICE, "nightly")
    assert Cron.of(HOURLY).next_after(await world.now()) > await world.now()
    await world.personal.close()


async def test_a_firing_whose_stream_somebody_holds_is_tried_again_later(database: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headwater.bus.firing.LOCK_WAIT_SECONDS_MAX", 0.05)
    world = PostgresWorld(database)  # type: ignore[arg-type]
    nightly(world.schedules, HOURLY)
    await world.fire()
    await world.miss_hours(1)
    event = NightCame(due_at=datetime(2026, 1, 1, tzinfo=UTC), is_late=False)
    await world.log.append("night-outbox:nightly", [event], expected_version=0)
    async with world.database.transaction() as connection:
        await world.log.append("night-outbox:nightly", [event], expected_version=1, connection=connection)
        await world.fire()
        (status,) = await ScheduleDesk(world.database).list()
        assert status.attempts >= 1
        assert status.fired_count == 0
        assert status.error is not None
        assert status.error.startswith("LockTimeout: ")
    await world.let_pass(400)
    await world.fire()
    assert await world.log.stream_version("night-outbox:nightly") == 3
    await world.personal.close()
