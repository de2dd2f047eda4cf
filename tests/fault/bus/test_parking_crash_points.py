"""Parking, retrying and following, cut short at every statement and every await: effects once and in order, and nothing is left behind."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import product
from typing import ClassVar

from headwater.bus import ConsumerLimits, Context, Park, PartitionPosition, PostgresEffects, RetryPolicy, Subscriptions
from headwater.bus.burying import Burying
from headwater.bus.committing import Committing
from headwater.bus.context import HandlerSurroundings
from headwater.bus.judging import Judging
from headwater.bus.parked import ParkedKeys
from headwater.bus.parking import Parking
from headwater.bus.partition_work import PartitionWork
from headwater.bus.settling import Settling
from headwater.clock import SYSTEM_CLOCK
from headwater.errors import StorageUnavailable
from headwater.eventstore import PostgresEventStore
from headwater.kafka import JSON_DECODER, Partition
from headwater.messages import ANY, Event, EventRegistry
from headwater.postgres import Database
from headwater.randomness import SYSTEM_RANDOMNESS
from headwater.testing import MemoryEventStore, check_crash_points, run_crash_point
from headwater.testing.crash_points import Callers, CrashPoint, CrashScenario, Fault
from headwater.testing.memory_bus import MemoryTopics
from headwater.testing.postgres_proxy import Cut
from headwater.testing.stepping import Moment
from tests.support import FULL, write_evidence

ORDER_0 = Partition("order", 0)
POLICY = RetryPolicy(attempts_max=1, then=Park(first_delay_seconds=0.0, attempts_max=1_000))
FAILURES = 2
"""In place, and once while parked."""
STEP = 31
"""Every so many points, where not all are tried."""


class OrderPlaced(Event):
    sku: str


class ParkAndFollow(CrashScenario):
    """One poisoned stream of three messages beside one in good order; the process lives as long as its connection."""

    errors: ClassVar[tuple[type[Exception], ...]] = (StorageUnavailable,)

    def __init__(self) -> None:
        self.group, self.failures_left = f"crash-{uuid.uuid4().hex}", FAILURES
        self.log = MemoryEventStore()
        self.topics = MemoryTopics(self.log, partition_count=1)
        self.subscriptions = Subscriptions()

        @self.subscriptions.on(OrderPlaced)
        async def write(event: OrderPlaced, context: Context) -> None:
            await context.connection.execute("INSERT INTO crash_effects (group_name, sku) VALUES ($1, $2)", self.group, event.sku)
            if event.sku == "a1" and self.failures_left:
                self.failures_left -= 1
                raise ValueError("not yet")

    async def prepare(self, database: Database) -> None:
        async with database.connection() as connection:
            await connection.execute(
                "CREATE TABLE IF NOT EXISTS crash_effects (id bigint GENERATED ALWAYS AS IDENTITY, group_name text, sku text)"
            )
        for sku in ("a1", "b1", "a2", "b2", "a3"):
            await self.log.append(f"order-{sku[0]}", [OrderPlaced(sku=sku)], expected_version=ANY)
        await self.topics.relay()

    async def act(self, database: Database, callers: Callers) -> None:
        effects = PostgresEffects(database, PostgresEventStore(database))
        registry = EventRegistry([OrderPlaced])
        surroundings = HandlerSurroundings(group=self.group, registry=registry)
        limits = ConsumerLimits()
        judging, burying = Judging(surroundings, POLICY, limits, SYSTEM_RANDOMNESS), Burying(self.subscriptions)
        committing = Committing(effects, surroundings, judging, Settling(surroundings, judging, burying), limits)
        parking = Parking(effects, surroundings, judging, burying, limits, JSON_DECODER)
        async with self._claimed(effects, registry) as work:
            while work.pending or work.parked:
                if ready := work.ready(100):
                    await committing.work_off(ready)
                elif work.failing is not None:
                    await committing.try_alone(work.pending[0])
                for parked in work.parked.due(SYSTEM_CLOCK.monotonic()) if not work.pending else ():
                    await parking.try_next(work, parked)

    @asynccontextmanager
    async def _claimed(self, effects: PostgresEffects, registry: EventRegistry) -> AsyncGenerator[PartitionWork]:
        position: PartitionPosition = await effects.claim(self.group, ORDER_0)
        work = PartitionWork(position, self.subscriptions.routes_in(ORDER_0.topic), registry=registry)
        work.parked = ParkedKeys(await effects.parked_keys(self.group, position, SYSTEM_CLOCK.monotonic()))
        work.accept(self.topics.records(ORDER_0, work.start(self.topics.range_of(ORDER_0)), 100))
        yield work

    async def recover(self, database: Database) -> None:
        """The next owner takes over."""
        await self.act(database, None)  # type: ignore[arg-type]

    async def check(self, database: Database) -> None:
        async with database.connection() as connection:
            rows = await connection.fetch("SELECT sku FROM crash_effects WHERE group_name = $1 ORDER BY id", self.group)
            left = await connection.fetchval("SELECT count(*) FROM headwater.parked_keys WHERE group_name = $1", self.group)
        skus = [row["sku"] for row in rows]
        assert [sku for sku in skus if sku[0] == "a"] == ["a1", "a2", "a3"]
        assert [sku for sku in skus if sku[0] == "b"] == ["b1", "b2"]
        assert skus.index("b2") < skus.index("a1"), "nobody waited for the poison"
        assert left == 0


async def test_parking_passes_crash_points(postgres_dsn: str) -> None:
    """All of them at full count; every few of them on every change."""
    if FULL:
        report = await check_crash_points(ParkAndFollow, postgres_dsn)
        write_evidence("crash-points-ParkAndFollow", {"tried": str(report), "statements": list(report.statements)})
        return
    undisturbed = await run_crash_point(ParkAndFollow(), postgres_dsn, None)
    statements, awaits = len(undisturbed.statements), len(undisturbed.awaits)
    assert any("INSERT INTO" in text and "parked_messages" in text for text in undisturbed.statements)
    points = [
        *(
            CrashPoint(fault, number, cut)
            for fault, cut in product((Fault.KILL, Fault.CONNECTION), Cut)
            for number in range(1, statements + 1)
        ),
        *(CrashPoint(Fault.CANCEL, number, moment) for moment in (Moment.WAITING, Moment.ANSWERED) for number in range(1, awaits + 1)),
    ]
    reached = 0
    for point in points[::STEP]:
        reached += (await run_crash_point(ParkAndFollow(), postgres_dsn, point)).was_reached
    assert reached >= 0.9 * len(points) / STEP
