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
from collections.abc import Sequence
from typing import Final
from uuid import UUID

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
        self._room = asyncio.Semaphore(UNITS_WAITING_MAX)
        self._free = [Writer(database) for _ in range(WRITERS)]
        self._flights: set[asyncio.Task[None]] = set()
        self._busy_streams: set[str] = set()
        self._busy_ids: set[UUID] = set()
        self._is_departing = False
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
        await self._room.acquire()
        ticket = Ticket(unit, asyncio.get_running_loop().create_future())
        self._waiting.append(ticket)
        if self._free and not self._is_departing:
            self._depart()
        return await ticket.landed

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
            await asyncio.sleep(0)
        self._free.append(writer)

    def _land(self, flight: asyncio.Task[None], writer: Writer) -> None:
        self._flights.discard(flight)
        if writer not in self._free:  # somebody ended the task, perhaps before it began
            self._free.append(writer)
            self._is_departing = False
            if self._waiting:
                self._depart()

    def _next_group(self) -> list[Ticket]:
        """The first units that can fly now; those behind a busy stream or id keep their place."""
        share = len(self._waiting)
        if share >= GROUP_SHARED_MIN:
            share = -(-share // (1 + len(self._free)))
        group: list[Ticket] = []
        held: list[Ticket] = []
        held_streams: set[str] = set()
        event_count = characters = 0
        while self._waiting and len(group) < share:
            ticket = self._waiting[0]
            event_count, characters = event_count + len(ticket.event_ids), characters + ticket.characters
            if group and (event_count > GROUP_EVENTS_MAX or characters > GROUP_CHARACTERS_MAX):
                break
            self._waiting.popleft()
            if ticket.is_settled:
                self._leave_room(ticket)
            elif self._slow_lane.holds(ticket.unit):
                self._take_slow(ticket)
            elif not (
                self._busy_streams.isdisjoint(ticket.stream_names)
                and held_streams.isdisjoint(ticket.stream_names)
                and self._busy_ids.isdisjoint(ticket.event_ids)
            ):
                held.append(ticket)
                held_streams.update(ticket.stream_names)
            else:
                group.append(ticket)
                self._busy_ids.update(ticket.event_ids)
                self._leave_room(ticket)
        self._waiting.extendleft(reversed(held))
        for ticket in group:
            self._busy_streams.update(ticket.stream_names)
        return group

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

    def _leave_room(self, ticket: Ticket) -> None:
        if not ticket.attempts:  # else it left when it flew first
            self._room.release()

    def _take_slow(self, ticket: Ticket) -> None:
        self._leave_room(ticket)
        self._slow_lane.take(ticket.unit, ticket.landed)

    async def _close(self) -> None:
        """Let what is in flight land, then close the connections; who still waits is told."""
        waiting, self._waiting = list(self._waiting), deque()
        for ticket in waiting:
            self._leave_room(ticket)
            ticket.settle(StoreNotOpen("the database was closed before the append began; nothing was stored"))
        while self._flights:  # what was blocked in one flight may leave with another
            await asyncio.gather(*self._flights, return_exceptions=True)
        await self._slow_lane.close()
        for writer in self._free:
            await writer.close()


def appender_of(database: Database) -> GroupAppender:
    """The one appender of a database in this process, however many stores stand over it: its connections are opened once."""
    return database.companion(GroupAppender, lambda: GroupAppender(database))
