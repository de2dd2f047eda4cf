"""Waking somebody who waits, once for however many rings."""

from __future__ import annotations

import asyncio

from headwater.clock import Clock


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
            waits = (asyncio.ensure_future(self._clock.sleep(seconds)), asyncio.ensure_future(self._rung.wait()))
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
                await asyncio.gather(*waits, return_exceptions=True)
        was_rung = self._rung.is_set()
        self._rung.clear()
        return was_rung
