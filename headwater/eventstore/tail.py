"""The end of the log, watched once for everybody in a process who reads it.

Listing the appends in flight costs the server a millisecond when there are a thousand (rule 3), so one task asks for the horizon, and readers at
the same place share what one of them read. The doorbell makes them look at once; polling with back-off finds what it missed.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.errors import HeadwaterError
from headwater.eventstore.doorbell import Doorbell
from headwater.eventstore.paging import PageSize
from headwater.eventstore.selection import EVERYTHING, EventSelection
from headwater.eventstore.store import READ_BATCH_SIZE, Checkpoint, EventStore, LogIdentity, LogSlice, SelectedSlice
from headwater.messages import RecordedEvent
from headwater.telemetry import logger

POLL_SECONDS_MIN: Final = 0.005
POLL_SECONDS_MAX: Final = 1.0
"""What an event waits at most when no doorbell told of it."""
COALESCE_SECONDS: Final = 0.002
"""Reads of the log's end begin at least so far apart: rings in between are answered by one read."""
NEAR_POSITIONS: Final = 1_000
"""Readers no farther from the horizon than this share their reads; others select on the server, each for itself."""

_log = logger("eventstore")


@dataclass(frozen=True, slots=True)
class TailRead:
    """Events behind a position, and what is needed to wait for more."""

    events: tuple[RecordedEvent, ...]
    checkpoint: Checkpoint | None
    """Of the last event looked at, wanted or not; None where there was none."""
    horizon: int
    is_whole: bool
    """Whether everything up to the horizon was looked at."""
    identity: LogIdentity
    """Which log it was read from; when it is another than before, verify the checkpoint you read behind."""
    ring_count: int


class LogTail:
    """Reads the log for many, and tells them when there is more.

    It watches only while somebody waits. `close` ends it at once; left alone, it ends soon after the last waiter.
    """

    def __init__(self, store: EventStore, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._store, self._clock = store, clock
        self._identity: LogIdentity | None = None
        self._horizon: int | None = None
        self._ring_count = 0
        self._changed = asyncio.Event()
        self._doorbell = Doorbell(clock)
        self._waiter_count = 0
        self._watcher: asyncio.Task[None] | None = None
        self._near, self._far = _Window(), _Window()
        self._near_read_at = clock.monotonic() - COALESCE_SECONDS

    def wake(self) -> None:
        """Look now: something was appended. Cheap, and many calls count as one."""
        self._ring_count += 1
        self._doorbell.ring()
        self.recheck()

    def recheck(self) -> None:
        """Let everybody who waits look again at what they wait for."""
        self._changed.set()
        self._changed = asyncio.Event()

    def is_near(self, position: int) -> bool:
        """Whether a reader at this position reads along with the others at the log's end."""
        return self._horizon is not None and self._horizon - position <= NEAR_POSITIONS

    async def read(self, after: int, *, selection: EventSelection = EVERYTHING, limit: int = READ_BATCH_SIZE) -> TailRead:
        """The next events that a selection wants.

        Raises:
            StorageUnavailable: the server is away; read again later.
        """
        is_near = self.is_near(after)
        if not is_near and not selection.is_everything:
            found, identity, rings = await self._fetch(after, lambda: self._store.read_selected(selection, after=after, limit=limit))
            return _tail_read(found.events, found.last_read, found.horizon, found.is_whole, identity, rings)
        window = self._near if is_near else self._far
        async with window.lock:
            part = window.part(after, selection, limit, self._is_fresh)
            if part is None:
                if is_near:
                    await self._pace()
                await self._fill(window, after)
                part = window.part(after, selection, limit, lambda _: True)
                assert part is not None, "it was read from there"
        return part

    async def wait(self, read: TailRead, *, unless: Callable[[], bool] = lambda: False) -> None:
        """Return when there may be more than what was read, or when `unless` says so after a `recheck`."""
        self._waiter_count += 1
        try:
            while self._is_fresh(read) and not unless():
                self._watch()
                await self._changed.wait()
        finally:
            self._waiter_count -= 1

    def forget(self) -> None:
        """Share nothing that was read before: the log may be another now."""
        self._near.held = self._far.held = None

    async def close(self) -> None:
        """Stop watching; a second call does nothing."""
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.cancel()
            await asyncio.wait([watcher])

    # -- reading ------------------------------------------------------------------------------------------------------

    def _is_fresh(self, read: TailRead) -> bool:
        return self._ring_count == read.ring_count and self._horizon == read.horizon

    async def _pace(self) -> None:
        remaining = self._near_read_at + COALESCE_SECONDS - self._clock.monotonic()
        if remaining > 0:
            await self._clock.sleep(remaining)
        self._near_read_at = self._clock.monotonic()

    async def _fill(self, window: _Window, after: int) -> None:
        async def read() -> SelectedSlice:
            limit = window.page.event_count
            found = await self._read_page(after, limit)
            last = found.events[-1] if found.events else None
            last_read = None if last is None else (last.global_position, last.event_id)
            return SelectedSlice(found.events, last_read, found.horizon, is_whole=len(found.events) < limit)

        found, identity, rings = await self._fetch(after, read)
        window.page.learn(found.events)
        window.after = after
        window.held = _tail_read(found.events, found.last_read, found.horizon, found.is_whole, identity, rings)

    async def _read_page(self, after: int, limit: int) -> LogSlice:
        """Far from the log's end up to the horizon that is known, which spares a round trip; at its end, up to what it is now."""
        if self._horizon is not None and not self.is_near(after):
            found = await self._store.read_log(after=after, limit=limit, horizon=self._horizon)
            if len(found.events) == limit:
                return found
        return await self._store.read_log(after=after, limit=limit)

    async def _fetch(self, after: int, read: Callable[[], Awaitable[SelectedSlice]]) -> tuple[SelectedSlice, LogIdentity, int]:
        """Read until the log is known to have been the same one before and after."""
        if self._identity is None:
            self._identity = await self._store.identity()
        while True:
            rings, expected = self._ring_count, self._identity
            found = await read()
            # An empty read that ends before its beginning is of a log that lost its tail.
            if found.last_read is not None or found.horizon < after:
                identity = await self._store.identity()
                if identity != expected:
                    _log.warning("log_epoch_began", epoch=identity.epoch, began_after=identity.epochs[-1].began_after)
                    self._identity, self._horizon = identity, None
                    self.forget()
                    continue
            if found.horizon != self._horizon:
                self._horizon = found.horizon
                self.recheck()
            return found, expected, rings

    # -- watching -----------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Make sure that somebody asks for the horizon."""
        watcher = self._watcher
        if watcher is not None and watcher.done():
            self._watcher = None
            if not watcher.cancelled():
                watcher.result()
        if self._watcher is None:
            self._watcher = asyncio.create_task(self._poll(), name="headwater log tail")
            self._watcher.add_done_callback(lambda _: self.recheck())

    async def _poll(self) -> None:
        pause, is_away = POLL_SECONDS_MIN, False
        while True:
            if await self._doorbell.wait(pause):
                # Readers look by themselves. If this ring came before its commit, the next poll is soon.
                pause = POLL_SECONDS_MIN
                continue
            if not self._waiter_count:
                return
            pause = min(pause * 2, POLL_SECONDS_MAX)
            try:
                horizon = await self._store.horizon()
            except HeadwaterError as error:
                if error.retryable and not is_away:
                    _log.warning("log_unreachable", error=str(error))
                elif not error.retryable:
                    # Not ours to wait out: readers meet it themselves, and raise it.
                    self._ring_count += 1
                    self.recheck()
                is_away, pause = True, POLL_SECONDS_MAX
                continue
            if is_away:
                _log.info("log_reachable_again")
            is_away = False
            if horizon != self._horizon:
                self._horizon = horizon
                self.recheck()


class _Window:
    """A stretch of the log that somebody read, kept for others who come by."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.page = PageSize(READ_BATCH_SIZE)
        self.after = 0
        self.held: TailRead | None = None

    def part(self, after: int, selection: EventSelection, limit: int, is_fresh: Callable[[TailRead], bool]) -> TailRead | None:
        """What a selection wants of it behind a position; None where it does not tell."""
        held = self.held
        if held is None or after < self.after:
            return None
        last = self.after if held.checkpoint is None else held.checkpoint.global_position
        if after < last:
            start = bisect_right(held.events, after, key=_position)
            return _selected(held, start, selection, limit)
        # Nothing behind it: true only as long as nothing can have come.
        is_covered = held.is_whole and (after == last or after <= held.horizon)
        return _selected(held, len(held.events), selection, limit) if is_covered and is_fresh(held) else None


def _selected(held: TailRead, start: int, selection: EventSelection, limit: int) -> TailRead:
    events, end = _matching(held.events, start, selection, limit)
    is_whole = held.is_whole and end == len(held.events)
    last = held.events[end - 1] if end > start else None
    last_read = None if last is None else (last.global_position, last.event_id)
    return _tail_read(events, last_read, held.horizon, is_whole, held.identity, held.ring_count)


def _matching(events: Sequence[RecordedEvent], start: int, selection: EventSelection, limit: int) -> tuple[tuple[RecordedEvent, ...], int]:
    """The events wanted from an index on, and the index behind the last one looked at."""
    if selection.is_everything:
        end = min(start + limit, len(events))
        return tuple(events[start:end]), end
    found: list[RecordedEvent] = []
    for index in range(start, len(events)):
        if selection.matches(events[index]):
            found.append(events[index])
            if len(found) == limit:
                return tuple(found), index + 1
    return tuple(found), len(events)


def _tail_read(
    events: tuple[RecordedEvent, ...],
    last_read: tuple[int, UUID] | None,
    horizon: int,
    is_whole: bool,
    identity: LogIdentity,
    ring_count: int,
) -> TailRead:
    checkpoint = None if last_read is None else Checkpoint(identity.locate(last_read[0]).epoch, *last_read)
    return TailRead(events, checkpoint, horizon, is_whole, identity, ring_count)


def _position(event: RecordedEvent) -> int:
    return event.global_position
