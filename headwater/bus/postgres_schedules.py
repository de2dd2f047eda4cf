"""Recurring schedules in PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final

from headwater.bus.cron import Cron
from headwater.bus.schedules import DueSchedule, ScheduleStatus
from headwater.postgres import CallerConnection, Connection, Database, sql_file, translate_errors

_PACKAGE: Final = "headwater.bus"
_READ_CLOCK = sql_file(_PACKAGE, "read_clock")
_REGISTER_SCHEDULE = sql_file(_PACKAGE, "register_schedule")
_CLAIM_SCHEDULE = sql_file(_PACKAGE, "claim_schedule")
_ADVANCE_SCHEDULE = sql_file(_PACKAGE, "advance_schedule")
_DELAY_SCHEDULE = sql_file(_PACKAGE, "delay_schedule")
_NEXT_SCHEDULE = sql_file(_PACKAGE, "next_schedule")
_LIST_SCHEDULES = sql_file(_PACKAGE, "list_schedules")
_REMOVE_SCHEDULE = sql_file(_PACKAGE, "remove_schedule")


class PostgresSchedules:
    """A `ScheduleStore` of one service, over a `Database` that somebody else opens and closes."""

    def __init__(self, database: Database, service_name: str) -> None:
        self._database, self._service_name = database, service_name

    async def now(self) -> datetime:
        """The moment on the database's clock."""
        async with self._database.statement_connection() as own:
            moment: datetime = await own.fetchval(_READ_CLOCK)
        return moment

    async def register(self, name: str, cron: Cron, next_at: datetime) -> None:
        """Keep a schedule; see `ScheduleStore.register`."""
        async with self._database.statement_connection() as own:
            await own.execute(_REGISTER_SCHEDULE, self._service_name, name, cron.expression, cron.timezone, next_at)

    async def claim(self, names: Sequence[str], *, connection: CallerConnection) -> DueSchedule | None:
        """One that is due; see `ScheduleStore.claim`."""
        async with self._on(connection) as own:
            row = await own.fetchrow(_CLAIM_SCHEDULE, self._service_name, names)
        if row is None:
            return None
        return DueSchedule(row["schedule_name"], Cron(row["cron"], row["timezone"]), row["next_at"], row["now"], row["attempts"])

    async def advance(self, name: str, next_at: datetime, fired_for: datetime | None, *, connection: CallerConnection) -> None:
        """Set the next moment; see `ScheduleStore.advance`."""
        async with self._on(connection) as own:
            await own.execute(_ADVANCE_SCHEDULE, self._service_name, name, next_at, fired_for)

    async def delay(self, name: str, error: str, seconds: float) -> None:
        """Note that a firing failed; see `ScheduleStore.delay`."""
        async with self._database.statement_connection() as own:
            await own.execute(_DELAY_SCHEDULE, self._service_name, name, error, seconds)

    async def seconds_to_next(self, names: Sequence[str]) -> float | None:
        """How long until one of these is due; see `ScheduleStore.seconds_to_next`."""
        async with self._database.statement_connection() as own:
            seconds: float | None = await own.fetchval(_NEXT_SCHEDULE, self._service_name, names)
        return seconds

    @asynccontextmanager
    async def _on(self, connection: CallerConnection) -> AsyncGenerator[Connection]:
        driver = await self._database.joined(connection)
        with translate_errors():
            yield driver


class ScheduleDesk:
    """Looks at the recurring schedules of one database, and removes those that no code defines any more."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(self, *, service_name: str | None = None) -> tuple[ScheduleStatus, ...]:
        """All of them, or one service's; the next due first."""
        async with self._database.statement_connection() as own:
            rows = await own.fetch(_LIST_SCHEDULES, service_name)
        return tuple(_status(row) for row in rows)

    async def remove(self, service_name: str, name: str) -> bool:
        """Forget one; False where there is none. Code that still defines it registers it again when it starts."""
        async with self._database.statement_connection() as own:
            return await own.fetchval(_REMOVE_SCHEDULE, service_name, name) is not None


def _status(row: Any) -> ScheduleStatus:
    facts = dict(row)
    return ScheduleStatus(name=facts.pop("schedule_name"), **facts)
