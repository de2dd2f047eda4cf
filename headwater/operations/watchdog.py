"""A thread that notices when the event loop stands still, where no parent does."""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.telemetry import logger

BLOCKED_SECONDS_MAX: Final = 10.0
"""A loop that did not turn for so long is told of: heartbeats to Kafka and leases do not survive much more."""
STACK_FRAMES_MAX: Final = 12
_log = logger("operations")


@contextmanager
def watched_loop(*, blocked_seconds_max: float = BLOCKED_SECONDS_MAX, clock: Clock = SYSTEM_CLOCK) -> Generator[None]:
    """While the block runs in the event loop's thread, tell once of each time that something blocks the loop for too long, and where."""
    watchdog = _Watchdog(asyncio.get_running_loop(), blocked_seconds_max, clock)
    thread = threading.Thread(target=watchdog.watch, name="headwater watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        watchdog.over.set()


class _Watchdog:
    def __init__(self, loop: asyncio.AbstractEventLoop, blocked_seconds_max: float, clock: Clock) -> None:
        self._loop, self._seconds_max, self._clock = loop, blocked_seconds_max, clock
        self._loop_thread_id = threading.get_ident()
        self._turned_at = clock.monotonic()
        self.over = threading.Event()

    def watch(self) -> None:
        """The thread's work."""
        is_told = False
        while not self.over.wait(self._seconds_max / 4):
            blocked_seconds = self._clock.monotonic() - self._turned_at
            if blocked_seconds < self._seconds_max:
                if is_told:
                    _log.info("event_loop_goes_on")
                is_told = False
            elif not is_told:
                is_told = True
                _log.error("event_loop_blocked", seconds=round(blocked_seconds, 1), stack=self._stack())
            try:
                self._loop.call_soon_threadsafe(self._turned)
            except RuntimeError:
                # The loop was closed meanwhile.
                return

    def _turned(self) -> None:
        self._turned_at = self._clock.monotonic()

    def _stack(self) -> list[str]:
        """Where the loop's thread is, the deepest call last."""
        frame = sys._current_frames().get(self._loop_thread_id)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - documented for this purpose
        summary = list[traceback.FrameSummary](traceback.extract_stack(frame, STACK_FRAMES_MAX) if frame is not None else ())
        return [f"{each.filename}:{each.lineno} in {each.name}" for each in summary]
