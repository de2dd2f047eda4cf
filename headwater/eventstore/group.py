"""Group append: what the callers of a process append at the same time is written together, each with its own outcome.

Who is authoritative: the SQL functions, one transaction a call. Here is only who waits, and who flies with whom.

A unit's way: waiting → in flight with its group → its caller has the outcome. A flight is at most two calls: `try_append_one` or `try_append_many` store
what nothing stands in the way of, which is nearly always everything, and `append_group` tells what became of the rest. One that meets a stream held
by somebody else's open transaction is `blocked`: it waits again, and after `BLOCKED_ATTEMPTS_MAX` flights goes to the slow lane, which waits in the database.

A lone unit flies at once. While all writers are busy the others gather, so groups grow with the load and by nothing else. Two units on one stream
keep their order: they fly in one group, the later one in its second call, or the later one waits until the earlier one's flight has landed.

What can fail: what can fail in a flight (`writer.py` tells); and a caller is cancelled: waiting, its unit is dropped; in flight, it is stored whole or
not at all.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Sequence
from itertools import islice
from typing import Final
from uuid import UUID

from headwater.clock import SYSTEM_CLOCK
from headwater.errors import StorageUnavailable, StoreNotOpen
from headwater.eventstore.appending import Unit
from headwater.eventstore.slow_lane import SlowLane
from headwater.eventstore.writer import Ticket, Writer
from headwater.messages import AppendResult
from headwater.postgres import Database

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


class GroupAppender:
    """Writes what many callers append, in as few transactions as there can be."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._slow_lane = SlowLane(database)
        self._waiting: deque[Ticket] = deque()
        self._crowd: deque[asyncio.Future[None]] = deque()
        """Callers who are not let in yet."""
        self._free = [Writer(database) for _ in range(WRITERS)]
        self._flights: set[asyncio.Task[None]] = set()
        self._busy_streams: set[str] = set()
        self._busy_ids: set[UUID] = set()
        self._is_departing = False
        database.before_closing(self._close)

    def append(self, unit: Unit) -> Awaitable[tuple[AppendResult, ...]]:
        """Store the unit's parts, all or none; awaiting it returns where each ended.

        Raises:
            WrongExpectedVersion, DuplicateEvent: nothing was stored.
            AppendBlocked: somebody else's open transaction holds a stream; nothing was stored.
            InvalidEvent: PostgreSQL cannot store it.
            StorageUnavailable: outcome unknown.
        """
        if self._crowd or len(self._waiting) >= UNITS_WAITING_MAX:
            return self._append_from_crowd(unit)
        return self._let_in(unit)

    def _let_in(self, unit: Unit) -> asyncio.Future[tuple[AppendResult, ...]]:
        if not self._database.is_open:
            raise StoreNotOpen("the database is not open; use it inside `async with`")
        ticket = Ticket(unit, asyncio.get_running_loop().create_future())
        self._waiting.append(ticket)
        if self._free and not self._is_departing:
            self._depart()
        return ticket.landed

    async def _append_from_crowd(self, unit: Unit) -> tuple[AppendResult, ...]:
        place = asyncio.get_running_loop().create_future()
        self._crowd.append(place)
        await place
        return await self._let_in(unit)

    # -- who flies ----------------------------------------------------------------------------------------------------

    def _depart(self) -> None:
        """Let a free writer leave with whoever is ready by the time its task begins, and not a moment later."""
        self._is_departing = True
        writer = self._free.pop()
        flight = asyncio.create_task(self._fly(writer))
        self._flights.add(flight)
        flight.add_done_callback(lambda done: self._land(done, writer))

    async def _fly(self, writer: Writer) -> None:
        """Group after group, until nobody waits. In a task of its own: a caller's cancellation does not reach the commit."""
        self._is_departing = False
        while group := self._next_group():
            if self._waiting and self._free and not self._is_departing:
                self._depart()
            await self._write(writer, group)
            # Those who have just landed may come along again.
            await SYSTEM_CLOCK.sleep(0)
        self._free.append(writer)

    def _land(self, flight: asyncio.Task[None], writer: Writer) -> None:
        self._flights.discard(flight)
        if flight.cancelled() or flight.exception() is not None:
            # Broken off, perhaps before it began.
            self._free.append(writer)
            self._is_departing = False
            if self._waiting:
                self._depart()

    def _next_group(self) -> list[Ticket]:
        """The first units that can fly now; those behind a busy stream or id keep their place."""
        share = len(self._waiting)
        if share >= GROUP_SHARED_MIN:
            share = -(-share // (1 + len(self._free)))
        group = self._next_unhindered(share)
        if group is None:
            group = self._next_one_by_one(share)
        for ticket in group:
            self._busy_streams.update(ticket.stream_names)
            self._busy_ids.update(ticket.event_ids)
        self._admit(UNITS_WAITING_MAX - len(self._waiting))
        return group

    def _admit(self, caller_count: int) -> None:
        while self._crowd and caller_count > 0:
            place = self._crowd.popleft()
            if not place.done():
                place.set_result(None)
                caller_count -= 1

    def _next_unhindered(self, share: int) -> list[Ticket] | None:
        """The first so many, if nothing keeps any of them."""
        group = list(islice(self._waiting, share))
        event_ids = [event_id for ticket in group for event_id in ticket.event_ids]
        if (
            self._slow_lane.is_empty
            and not any(ticket.is_settled for ticket in group)
            and len(event_ids) <= GROUP_EVENTS_MAX
            and sum([ticket.characters for ticket in group]) <= GROUP_CHARACTERS_MAX
            and len(set(event_ids)) == len(event_ids)
            and self._busy_ids.isdisjoint(event_ids)
            and self._busy_streams.isdisjoint([name for ticket in group for name in ticket.stream_names])
        ):
            for _ in group:
                self._waiting.popleft()
            return group
        return None

    def _next_one_by_one(self, share: int) -> list[Ticket]:
        group: list[Ticket] = []
        held: list[Ticket] = []
        held_streams: set[str] = set()
        event_ids: set[UUID] = set()
        event_count = characters = 0
        while self._waiting and len(group) < share:
            ticket = self._waiting[0]
            event_count, characters = event_count + len(ticket.event_ids), characters + ticket.characters
            if group and (event_count > GROUP_EVENTS_MAX or characters > GROUP_CHARACTERS_MAX):
                break
            self._waiting.popleft()
            if ticket.is_settled:
                continue
            if self._slow_lane.holds(ticket.unit):
                self._slow_lane.take(ticket.unit, ticket.landed)
            elif self._is_busy(ticket) or not (held_streams.isdisjoint(ticket.stream_names) and event_ids.isdisjoint(ticket.event_ids)):
                held.append(ticket)
                held_streams.update(ticket.stream_names)
            else:
                group.append(ticket)
                event_ids.update(ticket.event_ids)
        self._waiting.extendleft(reversed(held))
        return group

    def _is_busy(self, ticket: Ticket) -> bool:
        return not (self._busy_streams.isdisjoint(ticket.stream_names) and self._busy_ids.isdisjoint(ticket.event_ids))

    # -- flying -------------------------------------------------------------------------------------------------------

    async def _write(self, writer: Writer, group: list[Ticket]) -> None:
        blocked: list[Ticket] = []
        try:
            blocked = await writer.write(group)
        except BaseException as error:
            for ticket in group:
                ticket.settle(
                    StorageUnavailable(f"the append was broken off ({error!r}); its outcome is unknown: repeat it with the same event ids")
                )
            raise
        finally:
            for ticket in group:
                self._busy_streams.difference_update(ticket.stream_names)
                self._busy_ids.difference_update(ticket.event_ids)
            self._take_blocked(blocked)

    # -- blocked ------------------------------------------------------------------------------------------------------

    def _take_blocked(self, blocked: Sequence[Ticket]) -> None:
        again: list[Ticket] = []
        for ticket in blocked:
            ticket.attempts += 1
            if ticket.attempts < BLOCKED_ATTEMPTS_MAX and not self._slow_lane.holds(ticket.unit):
                again.append(ticket)
            elif not ticket.is_settled:
                self._slow_lane.take(ticket.unit, ticket.landed)
        self._waiting.extendleft(reversed(again))

    async def _close(self) -> None:
        """Let what is in flight land, then close the connections; who still waits is told."""
        waiting, self._waiting = list(self._waiting), deque()
        self._admit(len(self._crowd))  # to hear that it is closed
        for ticket in waiting:
            ticket.settle(StoreNotOpen("the database was closed before the append began; nothing was stored"))
        while self._flights:  # what was blocked in one flight may leave with another
            await asyncio.gather(*self._flights, return_exceptions=True)
        await self._slow_lane.close()
        for writer in self._free:
            await writer.close()


def appender_of(database: Database) -> GroupAppender:
    """The one appender of a database in this process, however many stores stand over it: its connections are opened once."""
    return database.companion(GroupAppender, lambda: GroupAppender(database))
