"""Waking somebody who waits, once for however many rings."""

from __future__ import annotations

import asyncio

from headwater.clock import Clock
from headwater.waiting import first_of


class Doorbell:
    """Rings are kept until the next wait, and many count as one."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._rung = clock, asyncio.Event()

    def ring(self) -> None:
        """Wake who waits, or who waits next."""
        self._rung.set()

    async def wait(self, seconds: float) -> bool:
        """Return at the next ring (True) or after so long (False)."""
        if not self._rung.is_set():
            await first_of(self._clock.sleep(seconds), self._rung.wait())
        was_rung = self._rung.is_set()
        self._rung.clear()
        return was_rung
