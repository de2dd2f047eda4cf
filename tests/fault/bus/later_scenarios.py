"""Messages for later and recurring schedules, to be cut short everywhere."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

from headwater.bus import DueMessages, DueSchedules, EffectsRefused, PostgresEffects, PostgresSchedules, Schedules
from headwater.errors import StorageUnavailable, TransactionConflict
from headwater.eventstore import PostgresEventStore
from headwater.messages import Event, NewEvent
from headwater.outbox import Cancellation, DueTime, PostgresScheduledMessages
from headwater.postgres import Database
from headwater.testing.crash_points import Callers, CrashScenario
from tests.fault.eventstore.append_scenarios import store_of, stored_ids

NOW = DueTime(datetime(2020, 1, 1, tzinfo=UTC), None)
STREAMS = 3


class Ticked(Event, category="ticking"):
    """What a schedule publishes."""


def worker_of(database: Database) -> DueMessages:
    store: PostgresEventStore = store_of(database)
    return DueMessages(PostgresScheduledMessages(database), store, PostgresEffects(database, store))


async def work(database: Database) -> None:
    """What a clockwork does until nothing is due that nobody else works on."""
    worker = worker_of(database)
    while await worker.do_next():
        pass


class LaterScenario(CrashScenario):
    """Knows its own streams, since all runs share a database."""

    errors = (StorageUnavailable, TransactionConflict, EffectsRefused)

    def __init__(self) -> None:
        self.key = uuid.uuid4().hex
        self.messages = [NewEvent("Reminded", f'{{"n": {number}}}') for number in range(9)]

    def stream_of(self, number: int) -> str:
        return f"reminding-outbox:{self.key}-{number % STREAMS}"

    async def plan(self, database: Database) -> None:
        scheduled = PostgresScheduledMessages(database)
        for number, message in enumerate(self.messages):
            await scheduled.schedule(self.stream_of(number), message, NOW)

    async def delivered_once_in_order(self, database: Database, but: frozenset[uuid.UUID] = frozenset()) -> None:
        for first in range(STREAMS):
            expected = [message.event_id for message in self.messages[first::STREAMS] if message.event_id not in but]
            assert await stored_ids(database, self.stream_of(first)) == expected
        async with database.connection() as connection:
            assert await connection.fetchval("SELECT count(*) FROM headwater.scheduled_messages") == 0, "a message waits still"


class Delivering(LaterScenario):
    """One worker delivers what is due."""

    async def prepare(self, database: Database) -> None:
        await self.plan(database)

    async def act(self, database: Database, callers: Callers) -> None:
        await work(database)

    async def recover(self, database: Database) -> None:
        await work(database)

    async def check(self, database: Database) -> None:
        await self.delivered_once_in_order(database)


class DeliveringTogether(Delivering):
    """Two workers at once, either of which may be cancelled."""

    async def act(self, database: Database, callers: Callers) -> None:
        outcomes = await callers.together(work(database), work(database))
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome


class SchedulingOne(LaterScenario):
    """A caller keeps a message, and repeats it when he does not know; then it is delivered."""

    async def schedule(self, database: Database) -> None:
        await PostgresScheduledMessages(database).schedule(self.stream_of(0), self.messages[0], NOW)

    async def act(self, database: Database, callers: Callers) -> None:
        await self.schedule(database)

    async def recover(self, database: Database) -> None:
        await self.schedule(database)
        await work(database)
        await self.schedule(database)
        await work(database)

    async def check(self, database: Database) -> None:
        self.messages = self.messages[:1]
        await self.delivered_once_in_order(database)


class Cancelling(LaterScenario):
    """A caller takes a message back while a worker delivers: either, never both."""

    async def prepare(self, database: Database) -> None:
        await self.plan(database)

    async def cancel(self, database: Database) -> Cancellation:
        return await PostgresScheduledMessages(database).cancel(self.messages[4].event_id)

    async def act(self, database: Database, callers: Callers) -> None:
        outcomes = await callers.together(work(database), self.cancel(database))
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    async def recover(self, database: Database) -> None:
        await work(database)
        self.answer = await self.cancel(database)
        assert await self.cancel(database) == (self.answer if self.answer is Cancellation.DELIVERED else Cancellation.NOT_THERE)

    async def check(self, database: Database) -> None:
        gone = frozenset([self.messages[4].event_id]) if self.answer.is_in_time else frozenset()
        await self.delivered_once_in_order(database, gone)


class Firing(CrashScenario):
    """A worker registers a schedule and fires what was missed: each moment once."""

    errors = (StorageUnavailable, TransactionConflict, EffectsRefused)
    MOMENTS = 3

    def __init__(self) -> None:
        self.service = f"service-{uuid.uuid4().hex}"
        self.schedules = Schedules()
        self.schedules.add(f"tick{uuid.uuid4().hex}", "0 0 1 1 *", Ticked, missed="all")
        (self.name,) = self.schedules.names

    async def fire(self, database: Database) -> None:
        effects = PostgresEffects(database, store_of(database))
        firer = DueSchedules(self.service, self.schedules, PostgresSchedules(database, self.service), effects)
        while (seconds := await firer.seconds_to_next()) is not None and seconds <= 0:
            if not await firer.do_next():
                return

    async def prepare(self, database: Database) -> None:
        await self.fire(database)
        async with database.connection() as connection:
            await connection.execute(
                "UPDATE headwater.schedules SET next_at = date_trunc('year', clock_timestamp(), 'UTC') - interval '2 years' WHERE service_name = $1",
                self.service,
            )

    async def act(self, database: Database, callers: Callers) -> None:
        await self.fire(database)

    async def recover(self, database: Database) -> None:
        await self.fire(database)

    async def check(self, database: Database) -> None:
        assert len(await stored_ids(database, f"ticking-outbox:{self.name}")) == self.MOMENTS
        async with database.connection() as connection:
            row = await connection.fetchrow("SELECT * FROM headwater.schedules WHERE service_name = $1", self.service)
            assert row is not None
            assert (row["fired_count"], row["attempts"], row["next_at"] > datetime.now(UTC)) == (self.MOMENTS, 0, True)


class FiringTogether(Firing):
    """Two workers at once."""

    async def act(self, database: Database, callers: Callers) -> None:
        outcomes = await callers.together(self.fire(database), self.fire(database))
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
