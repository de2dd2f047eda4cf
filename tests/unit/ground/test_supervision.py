"""Workers that end, fail or stall are told of and started anew; the block beside them ends only where a new start would not help."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
from structlog.testing import capture_logs

from headwater.errors import StorageUnavailable, UsageError
from headwater.metrics import WORKER_RESTARTS
from headwater.supervision import LOOK_SECONDS, STALL_SECONDS_MAX, Supervisor, Worker, supervised
from headwater.testing import FakeClock, MemoryMetrics, SeededRandomness
from headwater.testing.time import settle


class Scripted:
    """Does at each start what comes next in its script, and then works until it is cancelled."""

    def __init__(self, *script: Callable[[], Awaitable[None]]) -> None:
        self._script, self.starts, self.ends = list(script), 0, 0

    async def run(self) -> None:
        self.starts += 1
        try:
            if self._script:
                await self._script.pop(0)()
            else:
                await asyncio.Event().wait()
        finally:
            self.ends += 1


class World:
    def __init__(self, runs: Scripted) -> None:
        self.clock, self.metrics = FakeClock(), MemoryMetrics()
        self.supervisor = Supervisor(
            [Worker("consumer", lambda: runs)], metrics=self.metrics, clock=self.clock, randomness=SeededRandomness(3)
        )

    async def until(self, condition: Callable[[], object]) -> None:
        for _ in range(500):
            await settle()
            if condition():
                return
            await self.clock.advance_to_next_sleeper()
        raise AssertionError("it never came to be so")


async def return_at_once() -> None:
    pass


async def cancel_itself() -> None:
    raise asyncio.CancelledError


async def fail() -> None:
    raise KeyError("a bug")


async def be_cut_off() -> None:
    raise StorageUnavailable("nobody answers")


@pytest.mark.parametrize(
    ("ending", "told"),
    [
        (return_at_once, "WorkerEnded: its task ended though nobody told it to"),
        (cancel_itself, "WorkerEnded: its task was cancelled from inside"),
        (fail, "KeyError: 'a bug'"),
        (be_cut_off, "StorageUnavailable: nobody answers"),
    ],
)
async def test_a_worker_that_ends_by_itself_is_told_of_and_started_again(ending: Callable[[], Awaitable[None]], told: str) -> None:
    runs = Scripted(ending, ending)
    world = World(runs)
    with capture_logs() as facts:
        async with supervised(world.supervisor):
            await world.until(lambda: runs.starts == 3)
            assert runs.ends == 2
            (state,) = world.supervisor.states
            assert (state.state, state.restarts, state.last_error) == ("running", 2, told)
    assert [(fact["log_level"], fact["worker"], fact["error"]) for fact in facts if fact["event"] == "worker_ended"] == [
        ("error", "consumer", told)
    ] * 2
    assert world.metrics.value(WORKER_RESTARTS, "consumer") == 2
    assert runs.ends == 3


async def test_the_delay_before_a_new_start_grows_and_shrinks_again() -> None:
    runs = Scripted(fail, fail, fail, fail)
    world = World(runs)
    with capture_logs() as facts:
        async with supervised(world.supervisor):
            await world.until(lambda: runs.starts == 5)
    delays = [fact["restart_in_seconds"] for fact in facts if fact["event"] == "worker_ended"]
    assert delays == sorted(delays)
    assert delays[-1] > 4 * delays[0]


async def test_an_error_that_a_new_start_cannot_mend_ends_the_block() -> None:
    async def refuse() -> None:
        raise UsageError("two projections have one name")

    world = World(Scripted(refuse))
    with pytest.raises(UsageError, match="two projections"):
        async with supervised(world.supervisor):
            await asyncio.Event().wait()


async def test_leaving_lets_a_worker_finish_what_is_in_hand() -> None:
    finished = []

    class Draining:
        async def run(self) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await settle()
                finished.append(True)

    async with supervised(Supervisor([Worker("consumer", Draining)], clock=FakeClock())):
        await settle()
    assert finished == [True]


class Stubborn(Scripted):
    """Makes no progress, and does not hear when it is told to end."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self.clock, self.progressed_at, self.abandoned, self.may_end = clock, clock.monotonic(), 0, asyncio.Event()

    def waits_in(self) -> str:
        return "it waits in the shop"

    async def abandon(self) -> None:
        self.abandoned += 1

    async def run(self) -> None:
        self.starts += 1
        self.progressed_at = self.clock.monotonic()
        while not self.may_end.is_set():
            with suppress(asyncio.CancelledError):
                await self.may_end.wait()


async def test_a_stalled_worker_is_left_behind_and_replaced_though_it_never_ends() -> None:
    clock, made = FakeClock(), []

    def make() -> Stubborn:
        made.append(Stubborn(clock))
        if len(made) > 1:
            made[-1].may_end.set()
            made[-1].may_end = asyncio.Event()
        return made[-1]

    supervisor = Supervisor([Worker("consumer", make)], clock=clock)
    with capture_logs() as facts:
        async with supervised(supervisor):
            await settle()
            await clock.advance(STALL_SECONDS_MAX - LOOK_SECONDS)
            assert len(made) == 1
            await clock.advance(3 * LOOK_SECONDS)
            assert [each.abandoned for each in made] == [1, 0]
            assert [each.starts for each in made] == [1, 1]
            for each in made:
                each.may_end.set()
    (told,) = [fact for fact in facts if fact["event"] == "worker_stalled"]
    assert told["log_level"] == "error"
    assert "it waits in the shop" in told["error"]
