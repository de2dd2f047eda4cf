"""20,000 appends cancelled at random moments: no transaction, lock or connection is left, and each append is there whole or not at all."""

from __future__ import annotations

import asyncio
import random
import uuid
from dataclasses import dataclass, field
from typing import Any

from headwater.eventstore import PostgresEventStore
from headwater.messages import ANY, AppendResult, NewEvent
from headwater.postgres import Database
from headwater.testing import MigratedDatabases
from headwater.testing.leftovers import nothing_left_open, pool_is_whole
from headwater.testing.stepping import Moment, Stepper
from tests.support import SeededRuns, full_count, write_evidence

CALLS = 500
CALLERS = 20
CONNECTIONS_MAX = 5
AWAITS_MEAN = 2.0
SECONDS_MAX = 0.01
"""Where calls are cancelled: at one of their awaits, fewer the later, or after some time. A call that is through before is not cancelled."""
DRIVER_ROLLS_BACK = "Resetting connection with an active transaction"
"""What asyncpg tells the loop, and then does, when a cancelled COMMIT did not come through."""
BATCH_SECONDS_MAX = 300
STORED = "SELECT stream_name, array_agg(event_id ORDER BY version) AS ids FROM headwater.log GROUP BY stream_name"


@dataclass
class Call:
    """One append, to a stream of its own or to one that several write to."""

    stream_name: str
    events: list[NewEvent]
    in_transaction: bool
    is_repetition: bool
    outcome: Any = None

    @property
    def ids(self) -> list[uuid.UUID]:
        return [event.event_id for event in self.events]


@dataclass
class Batch:
    """Some hundred calls of one seed, by some callers at once on a pool that is too small for them."""

    database: Database
    chance: random.Random
    calls: list[Call] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = PostgresEventStore(self.database)

    def make_calls(self, seed: int) -> None:
        for number in range(CALLS):
            if self.calls and self.chance.random() < 0.1:
                earlier = self.chance.choice(self.calls)
                self.calls.append(Call(earlier.stream_name, earlier.events, self.chance.random() < 0.3, is_repetition=True))
                continue
            name = f"cancel-{seed}x{number}" if self.chance.random() < 0.7 else f"cancel-{seed}shared{self.chance.randrange(5)}"
            events = [
                NewEvent("Happened", "{}", event_id=uuid.UUID(int=self.chance.getrandbits(128), version=4))
                for _ in range(self.chance.choice((1, 1, 1, 2, 20)))
            ]
            self.calls.append(Call(name, events, self.chance.random() < 0.3, is_repetition=False))

    async def run(self) -> None:
        waiting = list(enumerate(self.calls))[::-1]
        steppers = {number: self.stepper() for number, _ in waiting}
        delays = {number: self.chance.uniform(0, SECONDS_MAX) if self.chance.random() < 0.5 else None for number, _ in waiting}

        async def caller() -> None:
            while waiting:
                number, call = waiting.pop()
                stepper, delay = (Stepper(), delays[number]) if delays[number] is not None else (steppers[number], None)
                task = asyncio.create_task(stepper.watch(self._append(call)))
                await asyncio.wait({task}, timeout=delay)
                if not task.done():
                    stepper.cancel_one(0)
                    await asyncio.wait({task})
                call.outcome = asyncio.CancelledError() if task.cancelled() else task.exception() or task.result()
                assert (stepper.cancelled is not None) == task.cancelled(), f"the cancellation was swallowed: {call.outcome!r}"

        async with asyncio.TaskGroup() as callers:
            for _ in range(CALLERS):
                callers.create_task(caller())

    def stepper(self) -> Stepper:
        cancel_at = 1 if self.chance.random() < 0.5 else 1 + int(self.chance.expovariate(1 / AWAITS_MEAN))
        moment = self.chance.choice((Moment.WAITING, Moment.ANSWERED))
        return Stepper(cancel_at=cancel_at if self.chance.random() < 0.9 else None, moment=moment)

    async def _append(self, call: Call) -> AppendResult:
        store = self.store
        if not call.in_transaction:
            return await store.append(call.stream_name, call.events, expected_version=ANY)
        async with self.database.transaction() as connection:
            return await store.append(call.stream_name, call.events, expected_version=ANY, connection=connection)

    async def check(self) -> int:
        """Hold the log against what the callers heard; how many were cancelled."""
        stored: dict[str, list[uuid.UUID]] = {}
        async with self.database.connection() as connection:
            for row in await connection.fetch(STORED):
                stored[row["stream_name"]] = list(row["ids"])
        for call in self.calls:
            assert not isinstance(call.outcome, Exception), f"{call.stream_name}: {call.outcome!r}"
            found = [event_id for event_id in stored.get(call.stream_name, []) if event_id in set(call.ids)]
            assert found in ([], call.ids), "half of an append is stored, or in another order"
            assert found or isinstance(call.outcome, asyncio.CancelledError), "an acknowledged append is not stored"
        every = [event_id for ids in stored.values() for event_id in ids]
        assert len(every) == len(set(every))
        return sum(isinstance(call.outcome, asyncio.CancelledError) for call in self.calls)

    async def repeat(self) -> None:
        """Repeat what was cancelled, as its caller would: it is stored now, once."""
        for call in self.calls:
            if isinstance(call.outcome, asyncio.CancelledError):
                call.outcome = await self.store.append(call.stream_name, call.events, expected_version=ANY)


async def test_cancelled_appends_are_whole_or_absent_and_leave_nothing(
    headwater_databases: MigratedDatabases, lost_exceptions: list[str]
) -> None:
    for seed in (runs := SeededRuns("cancelled-calls", default=1, full=80)):
        with headwater_databases.fresh() as dsn:
            runs.record(seed, await cancel_some_hundred(dsn, seed))
    lost_exceptions[:] = [lost for lost in lost_exceptions if not lost.startswith(DRIVER_ROLLS_BACK)]
    cancelled = runs.total("cancelled")
    assert cancelled > full_count(CALLS // 3, 20_000), "too few calls were cancelled"
    write_evidence(
        "cancelled-calls",
        {
            "summary": {
                "calls": runs.total("calls"),
                "cancelled": cancelled,
                "events_before_repeating": runs.total("events_before_repeating"),
                "half_stored": 0,
                "leaked": 0,
            }
        },
    )


async def cancel_some_hundred(dsn: str, seed: int) -> dict[str, int]:
    async with asyncio.timeout(BATCH_SECONDS_MAX), Database(dsn, application_name="observer") as direct:
        async with Database(dsn, connections_max=CONNECTIONS_MAX, application_name="cancelled") as database:
            batch = Batch(database, random.Random(f"cancelled {seed}"))
            batch.make_calls(seed)
            await batch.run()
            async with direct.connection() as observer:
                await nothing_left_open(observer, "cancelled")
            await pool_is_whole(database, CONNECTIONS_MAX)
            cancelled = await batch.check()
            before_repeating = await count_events(direct)
            await batch.repeat()
            await batch.check()
        return {"calls": CALLS, "cancelled": cancelled, "events": await count_events(direct), "events_before_repeating": before_repeating}


async def count_events(database: Database) -> int:
    async with database.connection() as connection:
        return int(await connection.fetchval("SELECT count(*) FROM headwater.events"))
