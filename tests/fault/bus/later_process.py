"""A process that delivers what is due and fires a schedule every second: python -m tests.fault.bus.later_process DSN."""

from __future__ import annotations

import asyncio
import sys

from headwater.bus import Clockwork, DueMessages, DueSchedules, PostgresEffects, PostgresSchedules, Schedules
from headwater.eventstore import PostgresEventStore
from headwater.messages import Event
from headwater.outbox import PostgresScheduledMessages
from headwater.postgres import Database

SERVICE, SCHEDULE = "clocks", "seconds"


class SecondPassed(Event, category="seconds"):
    """Fired every second."""

    due_at: str


def schedules() -> Schedules:
    found = Schedules()
    found.add(SCHEDULE, "* * * * * *", lambda firing: SecondPassed(due_at=firing.due_at.isoformat()), missed="all")
    return found


async def main(dsn: str) -> None:
    async with Database(dsn, connections_max=3) as database:
        store = PostgresEventStore(database)
        effects = PostgresEffects(database, store)
        await Clockwork(
            DueMessages(PostgresScheduledMessages(database), store, effects),
            DueSchedules(SERVICE, schedules(), PostgresSchedules(database, SERVICE), effects),
            poll_seconds_max=0.1,
        ).run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
