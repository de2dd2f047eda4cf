"""Sagas on PostgreSQL, through the consumer: one transaction, database time, locks, and what readers see."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable
from contextlib import suppress
from datetime import timedelta
from uuid import uuid4

import pytest

from headwater.bus import EffectsRefused, PostgresEffects, Subscriptions
from headwater.errors import SagaNotFound, UsageError
from headwater.eventstore import PostgresEventStore
from headwater.messages import ANY
from headwater.postgres import Database
from headwater.sagas import (
    Cause,
    Choreography,
    DeadlineKind,
    Saga,
    SagaContext,
    Sagas,
    SagaStatus,
    StepStatus,
    definition_of,
    on,
    on_deadline,
    starts_on,
)
from headwater.testing import eventually
from tests.integration.sagas.checking import amiss, types_by_order
from tests.integration.sagas.shop import QuickOrder, running
from tests.unit.sagas.orders import OrderCancelled, OrderFulfilment, OrderPlaced, PaymentFailed, PaymentTaken, StockReleased, StockReserved

ORDERS = 35


@pytest.fixture
def sagas(database: Database) -> Sagas:
    return Sagas(database)


class Desk:
    """Gives events to sagas in transactions of its own."""

    def __init__(self, database: Database, store: PostgresEventStore, *saga_classes: type[Saga]) -> None:
        self.effects = PostgresEffects(database, store)
        self.choreography = Choreography(Subscriptions())
        for saga_class in saga_classes:
            self.choreography.register(saga_class)

    async def give(self, *events: OrderPlaced | StockReserved | PaymentFailed | PaymentTaken | StockReleased) -> None:
        for event in events:
            async with self.effects.transaction() as transaction:
                for definition in self.choreography.definitions:
                    await self.choreography.take(definition, event, transaction, Cause(uuid4(), "story"))

    async def act(self) -> bool:
        async with self.effects.transaction() as transaction:
            return await self.choreography.act_on_next_deadline(transaction) is not None


async def test_every_order_ends_as_it_should(database: Database, store: PostgresEventStore, sagas: Sagas) -> None:
    for number in range(ORDERS):
        await store.append(f"order-{number}", [OrderPlaced(order_id=str(number))], expected_version=0)
    async with running(database, deadline_workers=2):

        async def all_ended() -> bool:
            counts = await sagas.count(saga_type=QuickOrder)
            return counts[SagaStatus.COMPLETED] + counts[SagaStatus.COMPENSATED] == ORDERS

        await eventually(all_ended, 30)
    stories = await types_by_order(store)
    assert [found for number in range(ORDERS) if (found := amiss(str(number), stories[str(number)]))] == []
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM headwater.saga_deadlines") == 0
        assert await connection.fetchval("SELECT count(*) FROM headwater.dead_letters") == 0


async def test_what_readers_see(database: Database, store: PostgresEventStore, sagas: Sagas) -> None:
    desk = Desk(database, store, OrderFulfilment)
    await desk.give(OrderPlaced(order_id="1"), OrderPlaced(order_id="2"), StockReserved(order_id="1"))
    saga = await sagas.get(OrderFulfilment, 1)
    assert (saga.saga_type, saga.key, saga.status, saga.ended_at) == ("order_fulfilment", "1", SagaStatus.RUNNING, None)
    assert [(step.name, step.status) for step in saga.steps] == [("reserve_stock", StepStatus.DONE), ("take_payment", StepStatus.SENT)]
    assert [(d.kind, d.name) for d in saga.deadlines] == [(DeadlineKind.SAID, "payment"), (DeadlineKind.END, "end")]
    assert saga.state == {"amount": "10", "handled": 1}
    assert [(t.number, t.kind, t.subject) for t in saga.history] == [
        (1, "started", "OrderPlaced"),
        (2, "step_sent", "reserve_stock"),
        (3, "event", "StockReserved"),
        (4, "step_done", "reserve_stock"),
        (5, "step_sent", "take_payment"),
        (6, "deadline_set", "payment"),
    ]
    assert {found.key for found in await sagas.list(status="running", saga_type="order_fulfilment")} == {"1", "2"}
    assert await sagas.list(status=SagaStatus.STUCK) == ()
    assert len(await sagas.list(limit=1)) == 1
    with pytest.raises(SagaNotFound, match="headwater sagas list"):
        await sagas.get("order_fulfilment", "7")
    with pytest.raises(UsageError, match="choose among running, compensating"):
        await sagas.list(status="lost")


async def test_state_commands_and_deadlines_are_kept_together_or_not_at_all(
    database: Database, store: PostgresEventStore, sagas: Sagas
) -> None:
    desk = Desk(database, store, OrderFulfilment)
    await desk.give(OrderPlaced(order_id="1"))
    definition = definition_of(OrderFulfilment)
    with pytest.raises(ValueError, match="the position could not be moved"):
        async with desk.effects.transaction() as transaction:
            await desk.choreography.take(definition, StockReserved(order_id="1"), transaction, Cause(uuid4(), "story"))
            raise ValueError("the position could not be moved")
    saga = await sagas.get(OrderFulfilment, "1")
    assert (len(saga.steps), len(saga.deadlines), len(saga.history)) == (1, 1, 2)
    assert [event.type for event in (await store.read_log(after=0)).events] == ["ReserveStock"]


async def test_a_person_lets_a_stuck_saga_go_on(database: Database, store: PostgresEventStore, sagas: Sagas) -> None:
    desk = Desk(database, store, OrderFulfilment)
    await desk.give(OrderPlaced(order_id="1"), StockReserved(order_id="1"), PaymentFailed(order_id="1"))
    overdue = "UPDATE headwater.saga_deadlines SET due_at = clock_timestamp() WHERE kind = 'undo' AND NOT is_failed"
    for _ in range(3):
        async with database.connection() as connection:
            await connection.execute(overdue)
        assert await desk.act()
    (found,) = await sagas.list(status="stuck")
    assert found.stuck_because == ("reserve_stock: the compensation ReleaseStock of reserve_stock was sent 3 times and never confirmed",)
    assert not await desk.act(), "it waits for a person"
    assert await sagas.retry(OrderFulfilment, "1") == 1
    assert await sagas.retry(OrderFulfilment, "1") == 0
    assert (await sagas.get(OrderFulfilment, "1")).status is SagaStatus.COMPENSATING
    assert await desk.act()
    await desk.give(StockReleased(order_id="1"))
    saga = await sagas.get(OrderFulfilment, "1")
    assert (saga.status, saga.stuck_because) == (SagaStatus.COMPENSATED, ())
    with pytest.raises(SagaNotFound):
        await sagas.retry(OrderFulfilment, "2")


async def test_a_stuck_saga_is_freed_by_the_event_it_waits_for(database: Database, store: PostgresEventStore, sagas: Sagas) -> None:
    desk = Desk(database, store, OrderFulfilment)
    await desk.give(OrderPlaced(order_id="1"))
    async with database.connection() as connection:
        await connection.execute("UPDATE headwater.saga_deadlines SET due_at = clock_timestamp() WHERE kind = 'end'")
    assert await desk.act()
    assert (await sagas.get(OrderFulfilment, "1")).status is SagaStatus.STUCK
    await desk.give(StockReserved(order_id="1"))
    assert (await sagas.get(OrderFulfilment, "1")).status is SagaStatus.STUCK, "it is still too late"
    await desk.give(PaymentTaken(order_id="1"))
    assert (await sagas.get(OrderFulfilment, "1")).status is SagaStatus.COMPLETED


class Rash(Saga, key="order_id"):
    @starts_on(OrderPlaced)
    async def placed(self, event: OrderPlaced, saga: SagaContext) -> None:
        saga.set_deadline("now", after=timedelta(0))

    @on_deadline("now")
    async def now(self, saga: SagaContext) -> None:
        await saga.publish(OrderCancelled(order_id=saga.key, reason="now"))
        await saga.connection.execute(saga.key)


@pytest.mark.parametrize("statement", ["SELECT 1 / 0", "ROLLBACK", "SELECT no_such_column"])
async def test_a_deadline_that_breaks_its_transaction_is_counted_and_ends_stuck(
    database: Database, store: PostgresEventStore, sagas: Sagas, statement: str
) -> None:
    desk = Desk(database, store, Rash)
    await desk.give(OrderPlaced(order_id=statement))

    async def is_stuck() -> bool:
        async with database.connection() as connection:
            await connection.execute("UPDATE headwater.saga_deadlines SET due_at = clock_timestamp() WHERE kind = 'said'")
        with suppress(EffectsRefused):  # which the clockwork waits out
            await desk.act()
        return (await sagas.get(Rash, statement)).status is SagaStatus.STUCK

    await eventually(is_stuck)
    assert [event.type for event in (await store.read_log(after=0)).events] == []
    assert "tried 5 times" in (await sagas.get(Rash, statement)).stuck_because[0]


class Racing(Saga, key="order_id"):
    """Says which of two was first, an event or its deadline."""

    @starts_on(OrderPlaced)
    async def placed(self, event: OrderPlaced, saga: SagaContext) -> None:
        saga.set_deadline("payment", after=timedelta(0))

    @on(PaymentTaken)
    async def paid(self, event: PaymentTaken, saga: SagaContext) -> None:
        await saga.append(f"order-{saga.key}", OrderCancelled(order_id=saga.key, reason="event"))
        saga.complete()

    @on_deadline("payment")
    async def unpaid(self, saga: SagaContext) -> None:
        await saga.append(f"order-{saga.key}", OrderCancelled(order_id=saga.key, reason="deadline"))
        await saga.compensate("late")


async def test_of_deadline_and_event_exactly_one_wins(database: Database, store: PostgresEventStore, sagas: Sagas) -> None:
    desks = [Desk(database, store, Racing) for _ in range(3)]
    rounds, chance = 40, random.Random(7)

    async def after_a_moment(work: Awaitable[object]) -> None:
        await asyncio.sleep(chance.uniform(0, 0.004))
        await work

    for number in range(rounds):
        await desks[0].give(OrderPlaced(order_id=str(number)))
        work = (desks[0].give(PaymentTaken(order_id=str(number))), desks[1].act(), desks[2].act())
        await asyncio.gather(*map(after_a_moment, work))
        await desks[0].act()
    said = [event.data for number in range(rounds) async for event in store.read_stream(f"order-{number}")]
    assert len(said) == rounds, "each order was decided once"
    winners = ["event" if '"event"' in data else "deadline" for data in said]
    assert {"event", "deadline"} == set(winners), "the race was no race"
    counts = await sagas.count()
    assert counts[SagaStatus.COMPLETED] == winners.count("event")
    assert counts[SagaStatus.COMPENSATED] == winners.count("deadline")


async def test_two_who_begin_the_same_saga_begin_it_once(database: Database, store: PostgresEventStore, sagas: Sagas) -> None:
    desks = [Desk(database, store, OrderFulfilment) for _ in range(4)]
    await asyncio.gather(*(desk.give(OrderPlaced(order_id="1")) for desk in desks))
    assert len(await sagas.list()) == 1
    assert [event.type for event in (await store.read_log(after=0)).events] == ["ReserveStock"]


async def test_events_of_one_saga_take_turns(database: Database, store: PostgresEventStore, sagas: Sagas) -> None:
    desk = Desk(database, store, OrderFulfilment)
    await desk.give(OrderPlaced(order_id="1"))
    definition = definition_of(OrderFulfilment)
    async with desk.effects.transaction() as first:
        await desk.choreography.take(definition, StockReserved(order_id="1"), first, Cause(uuid4(), "story"))
        second = asyncio.create_task(desk.give(PaymentTaken(order_id="1")))
        async with database.connection() as connection:

            async def waits() -> bool:
                found = await connection.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
                return bool(found)

            await eventually(waits)
            await connection.execute("UPDATE headwater.saga_deadlines SET due_at = clock_timestamp() WHERE kind = 'nothing'")
        assert not await desk.act(), "the clockwork passes over a saga that somebody works on"
    await second
    assert (await sagas.get(OrderFulfilment, "1")).status is SagaStatus.COMPLETED


async def test_a_dead_state_is_told_and_not_lost(database: Database, store: PostgresEventStore, sagas: Sagas) -> None:
    desk = Desk(database, store, OrderFulfilment)
    await desk.give(OrderPlaced(order_id="1"))
    async with database.connection() as connection:
        await connection.execute("""UPDATE headwater.sagas SET state = '{"amount": "many"}'""")
    with pytest.raises(Exception, match="does not fit the class"):
        await desk.give(StockReserved(order_id="1"))
    await store.append("order-1", [OrderCancelled(order_id="1", reason="x")], expected_version=ANY)
    assert (await sagas.get(OrderFulfilment, "1")).status is SagaStatus.RUNNING
