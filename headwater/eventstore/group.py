"""Group append: what the callers of a process append at the same time is written together, each with its own outcome.

Who is authoritative: the SQL functions `append_one` and `append_group`, one transaction a call. Here is only who waits, and who flies with whom.

A unit's way: waiting → in flight with its group → its caller has the outcome. One that meets a stream held by somebody else's open transaction is
`blocked`: it waits again, and after `BLOCKED_ATTEMPTS_MAX` flights goes to the slow lane, which waits in the database.

A lone unit flies at once. While all writers are busy the others gather, so groups grow with the load and by nothing else. Two units on one stream
keep their order: they fly in one group, in order, or the later one waits until the earlier one's flight has landed.

What can fail: a bad item fails its whole transaction, so the group is divided until the one at fault is alone; a connection is cut, then nobody
knows what became of the group, and all its callers are told so; a caller is cancelled: waiting, its unit is dropped; in flight, it is stored whole.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final, cast
from uuid import UUID

from headwater.errors import HeadwaterError, LockTimeout, MigrationNeeded, StorageError, StorageUnavailable, StoreNotOpen
from headwater.eventstore.appending import Arrays, Outcome, Part, Unit, metadata_text, results_of
from headwater.eventstore.slow_lane import SlowLane
from headwater.messages import AppendResult
from headwater.postgres import Connection, Database, sql_file, translate_data_errors, translate_errors

WRITERS: Final = 2
"""Connections that groups fly on: while one waits for its commit, the next group is on its way."""
GROUP_EVENTS_MAX: Final = 1_000
"""Events in one group, unless a single unit has more."""
GROUP_CHARACTERS_MAX: Final = 8 * 1024 * 1024
"""Characters of JSON in one group, unless a single unit has more."""
GROUP_SHARED_MIN: Final = 16
"""Units that are worth a second writer when both are free."""
UNITS_WAITING_MAX: Final = 10_000
"""Appends that wait for a flight; further callers wait before they are let in."""
BLOCKED_ATTEMPTS_MAX: Final = 3
"""Flights in which a unit may find its stream held by somebody else, before it goes to the slow lane."""

_PACKAGE: Final = "headwater.eventstore"
_APPEND_ONE = sql_file(_PACKAGE, "append_one")
_APPEND_GROUP = sql_file(_PACKAGE, "append_group")


class _Ticket:
    """A unit, and the caller who waits for its outcome."""

    __slots__ = ("attempts", "characters", "event_count", "landed", "unit")

    def __init__(self, unit: Unit, landed: asyncio.Future[tuple[AppendResult, ...]]) -> None:
        self.unit, self.landed = unit, landed
        self.attempts = 0
        self.event_count = sum(len(part.events) for part in unit)
        self.characters = sum(len(event.data) for part in unit for event in part.events)

    def settle(self, outcome: tuple[AppendResult, ...] | BaseException) -> None:
        if self.landed.done():
            return  # the caller was cancelled
        if isinstance(outcome, BaseException):
            self.landed.set_exception(outcome)
        else:
            self.landed.set_result(outcome)


class _Writer:
    """A connection for groups, opened when it is first needed and after it was lost."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: Connection | None = None

    async def connection(self) -> Connection:
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._database.connect()
        return self._connection

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and not connection.is_closed():
            await connection.close()


class GroupAppender:
    """Writes what many callers append, in as few transactions as there can be."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._slow_lane = SlowLane(database)
        self._waiting: deque[_Ticket] = deque()
        self._room = asyncio.Semaphore(UNITS_WAITING_MAX)
        self._free = [_Writer(database) for _ in range(WRITERS)]
        self._flights: set[asyncio.Task[None]] = set()
        self._busy_streams: set[str] = set()
        self._busy_ids: set[UUID] = set()
        self._is_scheduled = False
        database.before_closing(self._close)

    async def append(self, unit: Unit) -> tuple[AppendResult, ...]:
        """Store the unit's parts, all or none; returns where each ended.

        Raises:
            WrongExpectedVersion, DuplicateEvent: nothing was stored.
            AppendBlocked: somebody else's open transaction holds a stream; nothing was stored.
            InvalidEvent: PostgreSQL cannot store it.
            StorageUnavailable: outcome unknown.
        """
        if not self._database.is_open:
            raise StoreNotOpen("the database is not open; use it inside `async with`")
        loop = asyncio.get_running_loop()
        await self._room.acquire()
        ticket = _Ticket(unit, loop.create_future())
        self._waiting.append(ticket)
        if self._free and not self._is_scheduled:
            # After whoever else is ready now, and not a moment later.
            self._is_scheduled = True
            loop.call_soon(self._depart)
        return await ticket.landed

    # -- who flies ----------------------------------------------------------------------------------------------------

    def _depart(self) -> None:
        self._is_scheduled = False
        while self._free and (group := self._next_group()):
            writer = self._free.pop()
            flight = asyncio.create_task(self._fly(writer, group))
            self._flights.add(flight)
            flight.add_done_callback(self._flights.discard)

    def _next_group(self) -> list[_Ticket]:
        """The first units that can fly now; those behind a busy stream or id keep their place."""
        share = len(self._waiting) if len(self._waiting) < GROUP_SHARED_MIN else -(-len(self._waiting) // len(self._free))
        group: list[_Ticket] = []
        held: list[_Ticket] = []
        held_streams: set[str] = set()
        event_count = characters = 0
        while self._waiting and len(group) < share:
            ticket = self._waiting[0]
            event_count, characters = event_count + ticket.event_count, characters + ticket.characters
            if group and (event_count > GROUP_EVENTS_MAX or characters > GROUP_CHARACTERS_MAX):
                break
            self._waiting.popleft()
            if ticket.landed.done():
                self._room.release()
            elif self._slow_lane.holds(ticket.unit):
                self._take_slow(ticket)
            elif self._must_wait(ticket, held_streams):
                held.append(ticket)
                held_streams.update(part.stream_name for part in ticket.unit)
            else:
                group.append(ticket)
                self._busy_ids.update(event.event_id for part in ticket.unit for event in part.events)
                self._room.release()
        self._waiting.extendleft(reversed(held))
        self._busy_streams.update(part.stream_name for ticket in group for part in ticket.unit)
        return group

    def _must_wait(self, ticket: _Ticket, held_streams: set[str]) -> bool:
        return any(part.stream_name in self._busy_streams or part.stream_name in held_streams for part in ticket.unit) or any(
            event.event_id in self._busy_ids for part in ticket.unit for event in part.events
        )

    # -- flying -------------------------------------------------------------------------------------------------------

    async def _fly(self, writer: _Writer, group: list[_Ticket]) -> None:
        """In a task of its own: a caller's cancellation does not reach the commit."""
        blocked: list[_Ticket] = []
        try:
            blocked = await self._write(writer, group)
        except BaseException as error:
            for ticket in group:
                ticket.settle(
                    StorageUnavailable(f"the append was broken off ({error!r}); its outcome is unknown: repeat it with the same event ids")
                )
            raise
        finally:
            self._busy_streams.difference_update(part.stream_name for ticket in group for part in ticket.unit)
            self._busy_ids.difference_update(event.event_id for ticket in group for part in ticket.unit for event in part.events)
            self._free.append(writer)
            self._take_blocked(blocked)
            self._depart()

    async def _write(self, writer: _Writer, group: list[_Ticket]) -> list[_Ticket]:
        """Write the tickets and settle them; returns those that somebody else's transaction blocks."""
        try:
            with translate_errors(), translate_data_errors():
                outcomes = await _send(await writer.connection(), [ticket.unit for ticket in group])
        except (MigrationNeeded, StorageError) as error:
            # Nobody in the group is at fault.
            for ticket in group:
                ticket.settle(_copy(error))
            return []
        except LockTimeout:
            return group if len(group) == 1 else await self._write_halves(writer, group)
        except Exception as error:  # noqa: BLE001 - it is the caller's, who hears of it through the future
            if len(group) == 1:
                group[0].settle(error)
                return []
            return await self._write_halves(writer, group)
        blocked: list[_Ticket] = []
        for ticket, outcome in zip(group, outcomes, strict=True):
            settled = results_of(ticket.unit, outcome)
            if settled is None:
                blocked.append(ticket)
            else:
                ticket.settle(settled)
        return blocked

    async def _write_halves(self, writer: _Writer, group: list[_Ticket]) -> list[_Ticket]:
        """Nobody knows which unit failed the transaction: write each half by itself."""
        middle = len(group) // 2
        return await self._write(writer, group[:middle]) + await self._write(writer, group[middle:])

    # -- blocked ------------------------------------------------------------------------------------------------------

    def _take_blocked(self, blocked: Sequence[_Ticket]) -> None:
        again: list[_Ticket] = []
        for ticket in blocked:
            ticket.attempts += 1
            if ticket.attempts < BLOCKED_ATTEMPTS_MAX and not self._slow_lane.holds(ticket.unit):
                again.append(ticket)
            elif not ticket.landed.done():
                self._slow_lane.take(ticket.unit, ticket.landed)
        self._waiting.extendleft(reversed(again))

    def _take_slow(self, ticket: _Ticket) -> None:
        self._room.release()
        self._slow_lane.take(ticket.unit, ticket.landed)

    async def _close(self) -> None:
        """Let what is in flight land, then close the connections; who still waits is told."""
        waiting, self._waiting = list(self._waiting), deque()
        for ticket in waiting:
            self._room.release()
            ticket.settle(StoreNotOpen("the database was closed before the append began; nothing was stored"))
        while self._flights:  # what was blocked in one flight may leave with another
            await asyncio.gather(*self._flights, return_exceptions=True)
        await self._slow_lane.close()
        for writer in self._free:
            await writer.close()


def appender_of(database: Database) -> GroupAppender:
    """The one appender of a database in this process, however many stores stand over it: its connections are opened once."""
    return database.companion(GroupAppender, lambda: GroupAppender(database))


async def _send(connection: Connection, units: Sequence[Unit]) -> list[list[Outcome]]:
    """One transaction for all; the outcome of each part of each unit."""
    if (lone := _lone_event(units)) is not None:
        event = lone.events[0]
        row = await connection.fetchrow(
            _APPEND_ONE, lone.stream_name, lone.expected, event.type, event.data, metadata_text(event.metadata), event.event_id
        )
        assert row is not None, "the function returns one row"
        return [[cast("Outcome", tuple(row))]]
    row = await connection.fetchrow(_APPEND_GROUP, *Arrays.of(units).for_group())
    assert row is not None, "the function returns one row"
    outcomes = cast("Iterable[Outcome]", zip(*row, strict=True))
    return [[next(parts) for _ in unit] for parts in [iter(outcomes)] for unit in units]


def _lone_event(units: Sequence[Unit]) -> Part | None:
    """The only event there is, if it goes the short way."""
    if len(units) != 1 or len(units[0]) != 1 or len(units[0][0].events) != 1 or units[0][0].events[0].tags:
        return None
    return units[0][0]


def _copy(error: HeadwaterError) -> HeadwaterError:
    """One for each caller: an exception that is raised in several tasks collects all their tracebacks."""
    copied = type(error)(*error.args)
    copied.__cause__ = error.__cause__
    return copied
