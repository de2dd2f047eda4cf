"""The end of the log, watched once for all projections of a process."""

from __future__ import annotations

import asyncio
from typing import Final

from headwater.errors import StorageError
from headwater.eventstore import EventStore, LogSlice
from headwater.telemetry import logger

POLL_INTERVAL_SECONDS_MIN: Final = 0.005
POLL_INTERVAL_SECONDS_MAX: Final = 0.2
"""What an event waits at most when no doorbell told of it."""
BATCH_SIZE: Final = 1_000
"""Events read, and applied in one transaction, at once."""

_log = logger("projections")


class LogTail:
    """Tells projections when there is more to read, and reads it once where several stand at the same place.

    Listing the appends in flight costs the server a millisecond when there are a thousand, so one task asks for the horizon, not every
    projection.
    """

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._horizon = -1
        self._moved = asyncio.Condition()
        self._doorbell = asyncio.Event()
        self._reading = asyncio.Lock()
        self._latest: tuple[int, LogSlice] | None = None

    def wake(self) -> None:
        """Look now: something was appended."""
        self._doorbell.set()

    async def watch(self) -> None:
        """Follow the horizon until cancelled; waits out a server that is away."""
        pause, was_away = POLL_INTERVAL_SECONDS_MIN, False
        while True:
            try:
                horizon = await self._store.horizon()
            except StorageError as error:
                if not was_away:
                    _log.warning("log_unreachable", error=str(error))
                was_away, pause = True, POLL_INTERVAL_SECONDS_MAX
            else:
                was_away = False
                if horizon != self._horizon:
                    pause = POLL_INTERVAL_SECONDS_MIN
                    await self._set(horizon)
            has_rung = await self._rings_within(pause)
            pause = POLL_INTERVAL_SECONDS_MIN if has_rung else min(pause * 2, POLL_INTERVAL_SECONDS_MAX)

    async def moved_from(self, horizon: int) -> None:
        """Wait until the log can be read to another place than this."""
        async with self._moved:
            await self._moved.wait_for(lambda: self._horizon not in (horizon, -1))

    async def read(self, after: int, limit: int = BATCH_SIZE) -> LogSlice:
        """The next events after a position; shared with whoever read there last, if there was a full batch or nothing has come since."""
        async with self._reading:
            if self._latest is not None and limit == BATCH_SIZE:
                read_after, latest = self._latest
                if read_after == after and (len(latest.events) == BATCH_SIZE or latest.horizon == self._horizon):
                    return latest
            found = await self._store.read_log(after=after, limit=limit)
            if found.horizon != self._horizon:
                await self._set(found.horizon)
            if limit == BATCH_SIZE:
                self._latest = (after, found)
            return found

    def forget(self) -> None:
        """Share nothing that was read before: the log may be another now."""
        self._latest = None

    async def _set(self, horizon: int) -> None:
        async with self._moved:
            self._horizon = horizon
            self._moved.notify_all()

    async def _rings_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._doorbell.wait()
        except TimeoutError:
            return False
        self._doorbell.clear()
        return True
