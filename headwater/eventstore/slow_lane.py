"""The slow lane: appends whose stream somebody else's open transaction holds. They wait in the database, a few at a time, and not for ever.

Units on one stream keep their order. Whoever comes for a stream that somebody here waits for waits here, too, so that the fast lane stays free.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from headwater.clock import SYSTEM_CLOCK
from headwater.errors import AppendBlocked, HeadwaterError, LockTimeout, StorageUnavailable
from headwater.eventstore.appending import Arrays, Unit, results
from headwater.messages import AppendResult
from headwater.postgres import Connection, Database, sql_file, translate_data_errors, translate_errors

SLOW_LANE_CONNECTIONS_MAX: Final = 4
"""Units that wait in the database at the same time."""
SLOW_LANE_UNITS_MAX: Final = 1_000
"""Units in the slow lane; further ones are refused at once."""
SLOW_LANE_SECONDS_MAX: Final = 10.0
"""How long a unit waits in the slow lane before its caller is told who holds its stream."""

_PACKAGE: Final = "headwater.eventstore"
_APPEND_UNIT = sql_file(_PACKAGE, "append_unit")
_LIMIT_LOCK_WAIT = sql_file(_PACKAGE, "limit_lock_wait")
_FIND_STREAM_HOLDER = sql_file(_PACKAGE, "find_stream_holder")

Landed = asyncio.Future[tuple[AppendResult, ...]]


class SlowLane:
    """Waits for streams that others hold."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._places = asyncio.Semaphore(SLOW_LANE_CONNECTIONS_MAX)
        self._last: dict[str, asyncio.Task[None]] = {}
        """The last unit here that goes to a stream."""
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_empty(self) -> bool:
        return not self._last

    def holds(self, unit: Unit) -> bool:
        """Whether an earlier append to one of the unit's streams waits here."""
        return bool(self._last) and any(part.stream_name in self._last for part in unit)

    def take(self, unit: Unit, landed: Landed) -> None:
        """Wait for the unit's streams and store it; its caller hears of it through the future."""
        if len(self._tasks) >= SLOW_LANE_UNITS_MAX:
            _settle(landed, _blocked(unit, f"{SLOW_LANE_UNITS_MAX} appends wait for streams that other transactions hold already", None))
            return
        before = {self._last[part.stream_name] for part in unit if part.stream_name in self._last}
        task = asyncio.create_task(self._run(unit, landed, before))
        self._tasks.add(task)
        for part in unit:
            self._last[part.stream_name] = task
        task.add_done_callback(lambda done: self._leave(unit, done))

    async def close(self) -> None:
        """Break off what waits; its callers are told that nobody knows what became of it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _leave(self, unit: Unit, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        for part in unit:
            if self._last.get(part.stream_name) is task:
                del self._last[part.stream_name]

    async def _run(self, unit: Unit, landed: Landed, before: Iterable[asyncio.Task[None]]) -> None:
        deadline = SYSTEM_CLOCK.monotonic() + SLOW_LANE_SECONDS_MAX
        try:
            if tasks := list(before):
                await asyncio.wait(tasks)
            async with self._places:
                if landed.done():
                    return  # the caller was cancelled before anything was sent
                _settle(landed, await self._store(unit, max(deadline - SYSTEM_CLOCK.monotonic(), 0.001)))
        except asyncio.CancelledError:
            _settle(landed, StorageUnavailable("the append was broken off; its outcome is unknown: repeat it with the same event ids"))
            raise

    async def _store(self, unit: Unit, seconds: float) -> tuple[AppendResult, ...] | Exception:
        try:
            connection = await self._database.connect()
        except HeadwaterError as error:
            return error
        try:
            with translate_errors(), translate_data_errors():
                async with connection.transaction(isolation="read_committed"):
                    await connection.execute(_LIMIT_LOCK_WAIT, f"{max(int(seconds * 1000), 1)}ms")
                    row = await connection.fetchrow(_APPEND_UNIT, *Arrays.of([unit]).for_unit())
            assert row is not None, "the function returns one row"
            return results(unit, row["versions"], row["positions"])
        except LockTimeout:
            return await _who_blocks(connection, unit)
        except Exception as error:  # noqa: BLE001 - it is the caller's, who hears of it through the future
            return error
        finally:
            await connection.close()


async def _who_blocks(connection: Connection, unit: Unit) -> AppendBlocked:
    holder = await connection.fetchrow(_FIND_STREAM_HOLDER, [part.stream_name for part in unit])
    if holder is None:
        return _blocked(unit, "another open transaction holds it, or is creating it", None)
    if holder["prepared_name"] is not None:
        return _blocked(unit, f"the prepared transaction {holder['prepared_name']!r} holds it since {holder['began_at']:%H:%M:%S}", None)
    who = f"{holder['application_name'] or 'a client'} (pid {holder['pid']}, {holder['state']}, in a transaction since {holder['began_at']:%H:%M:%S} UTC)"
    return _blocked(unit, f"{who} holds it", holder["pid"])


def _blocked(unit: Unit, why: str, pid: int | None) -> AppendBlocked:
    names = tuple(part.stream_name for part in unit)
    shown = ", ".join(repr(name) for name in names[:3])
    return AppendBlocked(
        f"nothing could be appended to {shown}: {why}. End that transaction, then repeat the append", stream_names=names, holder_pid=pid
    )


def _settle(landed: Landed, outcome: tuple[AppendResult, ...] | Exception) -> None:
    if landed.done():
        return
    if isinstance(outcome, Exception):
        landed.set_exception(outcome)
    else:
        landed.set_result(outcome)
