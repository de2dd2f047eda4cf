"""Time that a test holds in its hand."""

from __future__ import annotations

import asyncio
import heapq
from datetime import UTC, datetime, timedelta
from typing import Final

from headwater.clock import SYSTEM_CLOCK

FIRST_MOMENT: Final = datetime(2026, 1, 1, tzinfo=UTC)
"""When a fake clock starts, unless told otherwise."""
SETTLING_ROUNDS: Final = 20
"""How many turns of the event loop those who woke up get before the clock moves on."""


class _HeldClock:
    """What moves only when somebody moves it; sleepers are kept by their moments."""

    def __init__(self, start: datetime) -> None:
        self._start, self._elapsed, self._count = start, 0.0, 0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._elapsed)

    def monotonic(self) -> float:
        return self._elapsed

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock was moved that far; zero lets others run once."""
        if seconds <= 0:
            await SYSTEM_CLOCK.sleep(0)
            return
        waker: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._count += 1
        heapq.heappush(self._sleepers, (self._elapsed + seconds, self._count, waker))
        await waker


class FakeClock(_HeldClock):
    """A `Clock` that stands still until `advance` moves it; sleepers wake in the order of their moments."""

    def __init__(self, start: datetime = FIRST_MOMENT) -> None:
        """Start at an aware moment."""
        super().__init__(start.astimezone(UTC))

    @property
    def sleeper_count(self) -> int:
        """How many wait for the clock."""
        return sum(not waker.done() for _, _, waker in self._sleepers)

    async def advance(self, seconds: float) -> None:
        """Move on, waking every sleeper whose moment comes, each at its moment, and letting it run before the next."""
        until = self._elapsed + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= until:
            moment, _, waker = heapq.heappop(self._sleepers)
            self._elapsed = max(self._elapsed, moment)
            if not waker.done():
                waker.set_result(None)
                await settle()
        self._elapsed = until

    async def advance_to_next_sleeper(self) -> bool:
        """Move on to the next moment somebody waits for; False when nobody waits."""
        await settle()
        moments = [moment for moment, _, waker in self._sleepers if not waker.done()]
        if not moments:
            return False
        await self.advance(min(moments) - self._elapsed)
        return True


class TurnClock(_HeldClock):
    """A `Clock` that moves on by a millisecond with every turn of the event loop, whatever the machine is busy with: what waits on it wakes in the
    same order every time.
    """

    def __init__(self) -> None:
        """Begin at the system's moment; nobody wakes before `run` runs."""
        super().__init__(SYSTEM_CLOCK.now())
        self._turns = 0

    async def run(self) -> None:
        """Move on until cancelled. It keeps the processor busy."""
        while True:
            await SYSTEM_CLOCK.sleep(0)
            self._turns += 1
            self._elapsed = self._turns / 1000
            while self._sleepers and self._sleepers[0][0] <= self._elapsed:
                _, _, waker = heapq.heappop(self._sleepers)
                if not waker.done():
                    waker.set_result(None)


async def settle() -> None:
    """Give the tasks that are ready a few turns of the event loop."""
    for _ in range(SETTLING_ROUNDS):
        await SYSTEM_CLOCK.sleep(0)
