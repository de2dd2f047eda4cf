"""One flight of a group append: what becomes of the units that one connection writes together.

The usual units go first, in one call that stores what nothing stands in the way of; `append_group` then tells what became of those that are left.
A bad item fails its whole transaction, so those that are left are divided until the one at fault is alone. After a cut connection nobody knows what became
of the call it cut, and its callers are told so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final, cast
from uuid import UUID

from headwater.errors import HeadwaterError, LockTimeout, MigrationNeeded, StorageError
from headwater.eventstore.appending import Arrays, Outcome, Unit, metadata_text, results_of
from headwater.messages import AppendResult
from headwater.postgres import Connection, Database, sql_file, translate_data_errors, translate_errors

_PACKAGE: Final = "headwater.eventstore"
_PREFER_INDEXES = sql_file(_PACKAGE, "prefer_indexes")
_TRY_APPEND_ONE = sql_file(_PACKAGE, "try_append_one")
_TRY_APPEND_MANY = sql_file(_PACKAGE, "try_append_many")
_APPEND_GROUP = sql_file(_PACKAGE, "append_group")


class Ticket:
    """A unit, and the caller who waits for its outcome."""

    __slots__ = ("attempts", "characters", "event_ids", "is_usual", "landed", "stream_names", "unit")

    def __init__(self, unit: Unit, landed: asyncio.Future[tuple[AppendResult, ...]]) -> None:
        self.unit, self.landed = unit, landed
        self.attempts = 0
        part = unit[0]
        if len(unit) == 1 and len(part.events) == 1:
            # Most are like this, and for these every microsecond counts.
            event = part.events[0]
            self.stream_names: Sequence[str] = (part.stream_name,)
            self.event_ids: Sequence[UUID] = (event.event_id,)
            self.characters = len(event.data)
            self.is_usual = not event.tags
        else:
            events = [event for part in unit for event in part.events]
            self.stream_names = [part.stream_name for part in unit]
            self.event_ids = [event.event_id for event in events]
            self.characters = sum(len(event.data) for event in events)
            self.is_usual = len(unit) == 1 and not any(event.tags for event in events)

    @property
    def is_settled(self) -> bool:
        """Whether its caller has an outcome, or wants none any more."""
        return self.landed.done()

    def settle(self, outcome: tuple[AppendResult, ...] | BaseException) -> None:
        if self.landed.done():
            return  # the caller was cancelled
        if isinstance(outcome, tuple):
            self.landed.set_result(outcome)
        else:
            self.landed.set_exception(outcome)


class Writer:
    """A connection for groups, opened when it is first needed and after it was lost."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: Connection | None = None

    async def write(self, group: Sequence[Ticket]) -> list[Ticket]:
        """Write the tickets and settle them; returns those that somebody else's transaction blocks."""
        await self._write_usual(_usual(group))
        left = [ticket for ticket in group if not ticket.is_settled]
        return await self._write_any(left) if left else []

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and not connection.is_closed():
            await connection.close()

    async def _open_connection(self) -> Connection:
        if self._connection is None or self._connection.is_closed():
            connection = await self._database.connect()
            try:
                if not self._database.is_pooled_by_transaction:
                    await connection.fetchrow(_PREFER_INDEXES)
            except BaseException:
                connection.terminate()
                raise
            self._connection = connection
        return self._connection

    async def _write_usual(self, tickets: Sequence[Ticket]) -> None:
        """Settle those that nothing stands in the way of, and, where nobody is at fault, all."""
        if not tickets:
            return
        try:
            with translate_errors():
                connection = await self._open_connection()
                # Behind a pooler the session is nobody's, so try_append_one could not rely on its settings.
                if len(tickets) == 1 and len(tickets[0].event_ids) == 1 and not self._database.is_pooled_by_transaction:
                    await _try_append_one(connection, tickets[0])
                else:
                    await _try_append_many(connection, tickets)
        except (MigrationNeeded, StorageError) as error:
            _settle_all(tickets, error)
        except Exception:  # noqa: BLE001 - whose fault it is, the other call will tell
            return

    async def _write_any(self, tickets: Sequence[Ticket]) -> list[Ticket]:
        try:
            with translate_errors(), translate_data_errors():
                outcomes = await _append_group(await self._open_connection(), [ticket.unit for ticket in tickets])
        except (MigrationNeeded, StorageError) as error:
            # Nobody in the group is at fault.
            _settle_all(tickets, error)
            return []
        except LockTimeout:
            return list(tickets) if len(tickets) == 1 else await self._write_halves(tickets)
        except Exception as error:  # noqa: BLE001 - it is the caller's, who hears of it through the future
            if len(tickets) == 1:
                tickets[0].settle(error)
                return []
            return await self._write_halves(tickets)
        blocked: list[Ticket] = []
        for ticket, outcome in zip(tickets, outcomes, strict=True):
            settled = results_of(ticket.unit, outcome)
            if settled is None:
                blocked.append(ticket)
            else:
                ticket.settle(settled)
        return blocked

    async def _write_halves(self, tickets: Sequence[Ticket]) -> list[Ticket]:
        """Nobody knows which unit failed the transaction: write each half by itself."""
        middle = len(tickets) // 2
        return await self._write_any(tickets[:middle]) + await self._write_any(tickets[middle:])


def _usual(group: Sequence[Ticket]) -> list[Ticket]:
    """Those that may go first: no two to one stream, and none before an earlier one to its stream."""
    usual: list[Ticket] = []
    seen: set[str] = set()
    for ticket in group:
        if ticket.is_usual and seen.isdisjoint(ticket.stream_names):
            usual.append(ticket)
        seen.update(ticket.stream_names)
    return usual


async def _try_append_one(connection: Connection, ticket: Ticket) -> None:
    part = ticket.unit[0]
    event = part.events[0]
    stored = await connection.fetchval(
        _TRY_APPEND_ONE, part.stream_name, part.expected, event.type, event.data, metadata_text(event.metadata), event.event_id
    )
    if stored is not None:
        ticket.settle((AppendResult(part.stream_name, *stored),))


async def _try_append_many(connection: Connection, tickets: Sequence[Ticket]) -> None:
    parts = [ticket.unit[0] for ticket in tickets]
    events = [event for part in parts for event in part.events]
    types = [event.type for event in events]
    event_counts = None if len(events) == len(parts) else [len(part.events) for part in parts]
    row = await connection.fetchrow(
        _TRY_APPEND_MANY,
        [part.stream_name for part in parts],
        [part.expected for part in parts],
        event_counts,
        list(set(types)),
        types,
        [event.data for event in events],
        [metadata_text(event.metadata) for event in events],
        [event.event_id for event in events],
    )
    assert row is not None, "the function returns one row"
    versions, positions = row
    if positions is None:
        return
    last_event = -1
    for ticket, part, version in zip(tickets, parts, versions, strict=True):
        if version is not None:
            last_event += len(part.events)
            ticket.settle((AppendResult(part.stream_name, version, positions[last_event]),))


async def _append_group(connection: Connection, units: Sequence[Unit]) -> list[list[Outcome]]:
    """One transaction for all; the outcome of each part of each unit."""
    row = await connection.fetchrow(_APPEND_GROUP, *Arrays.of(units).for_group())
    assert row is not None, "the function returns one row"
    outcomes = cast("Iterable[Outcome]", zip(*row, strict=True))
    return [[next(parts) for _ in unit] for parts in [iter(outcomes)] for unit in units]


def _settle_all(tickets: Sequence[Ticket], error: HeadwaterError) -> None:
    """One copy for each caller: an exception that is raised in several tasks collects all their tracebacks."""
    for ticket in tickets:
        copied = type(error)(*error.args)
        copied.__cause__ = error.__cause__
        ticket.settle(copied)
