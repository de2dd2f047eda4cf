"""Time and sleep, the only way in: everything else asks here, so that a simulation can hold the clock.

Moments that matter to correctness (leases, deadlines) come from the database's clock; this one is for waits, back-off and display.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What a component needs to know of time."""

    def now(self) -> datetime:
        """The current moment, aware, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back, from an arbitrary start."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Let others run for that long."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


SYSTEM_CLOCK = SystemClock()


def blocking_sleep(seconds: float) -> None:
    """Block the thread; for code that runs without an event loop (starting servers, the command line)."""
    time.sleep(seconds)
