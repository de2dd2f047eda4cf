"""The clockwork: sleeps until something is due, asks seldom when nothing is, and is woken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from headwater.bus import Clockwork
from headwater.bus.clockwork import IDLE_SECONDS_MAX
from headwater.errors import StorageUnavailable
from headwater.metrics import DUE_LATE_SECONDS
from headwater.testing import FakeClock, MemoryMetrics


class Work:
    """Due at given moments of a fake clock."""

    def __init__(self, clock: FakeClock, *moments: float) -> None:
        self.clock, self.moments, self.done = clock, list(moments), list[float]()
        self.asked = 0
        self.is_away = self.is_somebody_elses = False
        self.name = "work"

    async def do_next(self) -> bool:
        if self.is_somebody_elses or not self.moments or min(self.moments) > self.clock.monotonic():
            return False
        self.moments.remove(min(self.moments))
        self.done.append(self.clock.monotonic())
        return True

    async def seconds_to_next(self) -> float | None:
        self.asked += 1
        if self.is_away:
            raise StorageUnavailable("away")
        return min(self.moments) - self.clock.monotonic() if self.moments else None


@pytest.fixture
async def clock() -> AsyncIterator[FakeClock]:
    return FakeClock()


class Running:
    """A clockwork at work."""

    def __init__(self, clock: FakeClock, *works: Work) -> None:
        self.clockwork = Clockwork(*works, clock=clock)

    async def __aenter__(self) -> Clockwork:
        self.task = asyncio.create_task(self.clockwork.run())
        return self.clockwork

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])


async def test_what_is_due_is_done_at_its_moment(clock: FakeClock) -> None:
    work = Work(clock, 0.0, 3.0, 3.0, 47.25)
    async with Running(clock, work):
        await clock.advance(60)
    assert work.done == pytest.approx([0.0, 3.0, 3.0, 47.25], abs=0.02)


async def test_who_has_nothing_to_do_asks_seldom(clock: FakeClock) -> None:
    work = Work(clock)
    async with Running(clock, work):
        await clock.advance(600)
    assert work.asked <= 600 / IDLE_SECONDS_MAX + 6


async def test_a_ring_is_answered_at_once_and_a_thousand_rings_are_few_questions(clock: FakeClock) -> None:
    work = Work(clock)
    async with Running(clock, work) as clockwork:
        await clock.advance(100)
        work.moments.append(clock.monotonic())
        planned = clock.monotonic()
        clockwork.wake()
        await clock.advance(0.2)
        assert work.done == pytest.approx([planned], abs=0.01)
        asked = work.asked
        for _ in range(1000):
            clockwork.wake()
            await clock.advance(0.01)
        assert work.asked - asked <= 110


async def test_what_is_committed_after_the_ring_is_found_soon_all_the_same(clock: FakeClock) -> None:
    work = Work(clock)
    async with Running(clock, work) as clockwork:
        await clock.advance(100)
        clockwork.wake()
        await clock.advance(0.3)
        work.moments.append(clock.monotonic())
        began = clock.monotonic()
        await clock.advance(10)
    assert work.done[0] - began <= 0.7


async def test_what_somebody_else_works_on_is_looked_at_again_with_growing_pauses(clock: FakeClock) -> None:
    work = Work(clock, 0.0)
    work.is_somebody_elses = True
    async with Running(clock, work):
        await clock.advance(30)
        assert work.asked <= 2 * (30 / 0.5 + 8)
        work.is_somebody_elses = False
        await clock.advance(1)
    assert len(work.done) == 1


async def test_a_database_that_is_away_is_waited_out_and_slow_work_holds_up_nobody(clock: FakeClock) -> None:
    away, slow, quick = Work(clock, 0.0), Work(clock, 0.0), Work(clock, 1.0, 2.0)
    away.is_away = True

    async def takes_long() -> bool:
        await clock.sleep(1_000)
        return False

    slow.do_next = takes_long  # type: ignore[method-assign]
    async with Running(clock, away, slow, quick):
        await clock.advance(20)
        assert quick.done == pytest.approx([1.0, 2.0], abs=0.02)
        away.is_away = False
        await clock.advance(10)
        assert len(away.done) == 1


async def test_how_late_the_first_of_what_is_due_is_can_be_watched(clock: FakeClock) -> None:
    work, metrics = Work(clock, 10.0), MemoryMetrics()
    work.is_somebody_elses = True
    running = asyncio.create_task(Clockwork(work, clock=clock, metrics=metrics).run())
    try:
        await clock.advance(9)
        assert metrics.value(DUE_LATE_SECONDS, "work") == 0.0
        await clock.advance(91)
        assert metrics.value(DUE_LATE_SECONDS, "work") == pytest.approx(90, abs=1)
        work.is_somebody_elses = False
        await clock.advance(6)
        assert metrics.value(DUE_LATE_SECONDS, "work") == 0.0
    finally:
        running.cancel()
        await asyncio.wait([running])
