"""Sagas and those who carry out their commands, in one service on PostgreSQL; Kafka's place is taken by topics in memory.

Run as a process, to be killed: `python -m tests.integration.sagas.shop '{"dsn": …}'`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from headwater.bus import Consumer, ConsumerLimits, Context, PostgresEffects, RetryPolicy, Subscriptions
from headwater.eventstore import PostgresEventStore
from headwater.postgres import Database
from headwater.sagas import Choreography, DeadlineWorker, Saga, SagaContext, Step, on, on_deadline, starts_on, when_compensated
from headwater.testing.memory_bus import MemorySource, MemoryTopics
from tests.unit.sagas.orders import (
    OrderCancelled,
    OrderConfirmed,
    OrderPlaced,
    PaymentFailed,
    PaymentRefunded,
    PaymentTaken,
    RefundPayment,
    ReleaseStock,
    ReserveStock,
    StockReleased,
    StockReserved,
    StockShort,
    TakePayment,
)

GROUP = "shop"
STOCK = 1_000_000
PAYMENT_SECONDS = 0.3
"""How long an order waits for its payment."""


def fate_of(order_id: str) -> str:
    """What becomes of an order, the same in every run: `short`, `fails`, `unpaid`, `late` or `paid`."""
    return ("short", "fails", "unpaid", "late", "paid", "paid", "paid")[int(order_id) % 7]


class QuickOrder(Saga, key="order_id"):
    reserve_stock = Step(
        done_by=StockReserved, failed_by=StockShort, undone_by=StockReleased, undone_within=timedelta(seconds=1), undo_attempts_max=1_000
    )
    take_payment = Step(
        done_by=PaymentTaken,
        failed_by=PaymentFailed,
        undone_by=PaymentRefunded,
        undone_within=timedelta(seconds=1),
        undo_attempts_max=1_000,
    )

    @starts_on(OrderPlaced)
    async def placed(self, event: OrderPlaced, saga: SagaContext) -> None:
        order_id = event.order_id
        await saga.send(self.reserve_stock, ReserveStock(order_id=order_id), compensation=ReleaseStock(order_id=order_id))

    @on(StockReserved)
    async def reserved(self, event: StockReserved, saga: SagaContext) -> None:
        order_id = event.order_id
        await saga.send(self.take_payment, TakePayment(order_id=order_id, amount=1), compensation=RefundPayment(order_id=order_id))
        saga.set_deadline("payment", after=timedelta(seconds=PAYMENT_SECONDS))

    @on(PaymentTaken)
    async def paid(self, event: PaymentTaken, saga: SagaContext) -> None:
        await saga.append(f"order-{event.order_id}", OrderConfirmed(order_id=event.order_id))
        saga.complete()

    @on_deadline("payment")
    async def unpaid(self, saga: SagaContext) -> None:
        await saga.compensate("not paid in time")

    @when_compensated
    async def cancelled(self, saga: SagaContext) -> None:
        await saga.append(f"order-{saga.key}", OrderCancelled(order_id=saga.key, reason=saga.reason or ""))


def choreograph(subscriptions: Subscriptions) -> Choreography:
    """The saga, and the services that it commands, whose books are events of `reservation-…` and `paid-…` streams."""
    choreography = Choreography(subscriptions, retry_policy=RetryPolicy(first_delay_seconds=0.02))
    choreography.register(QuickOrder)

    @subscriptions.on(ReserveStock)
    async def reserve(event: ReserveStock, context: Context) -> None:
        answer = StockShort if fate_of(event.order_id) == "short" else StockReserved
        await context.append(f"reservation-{event.order_id}", answer(order_id=event.order_id))

    @subscriptions.on(ReleaseStock)
    async def release(event: ReleaseStock, context: Context) -> None:
        await context.append(f"reservation-{event.order_id}", StockReleased(order_id=event.order_id))

    @subscriptions.on(TakePayment)
    async def charge(event: TakePayment, context: Context) -> None:
        if (fate := fate_of(event.order_id)) in {"fails", "paid"}:
            answer = PaymentFailed if fate == "fails" else PaymentTaken
            await context.append(f"paid-{event.order_id}", answer(order_id=event.order_id))

    @subscriptions.on(RefundPayment)
    async def refund(event: RefundPayment, context: Context) -> None:
        if fate_of(event.order_id) == "late":
            # The answer to the command that was overtaken by the deadline, before the answer to its compensation.
            await context.append(f"paid-{event.order_id}", PaymentTaken(order_id=event.order_id))
        await context.append(f"paid-{event.order_id}", PaymentRefunded(order_id=event.order_id))

    return choreography


async def workers(database: Database) -> tuple[Consumer, DeadlineWorker]:
    """What one process of the service runs."""
    store, subscriptions = PostgresEventStore(database), Subscriptions()
    topics = MemoryTopics(store, partition_count=2)
    # A broker keeps its topics; these are filled from the log anew, before the consumer looks where it was.
    await topics.relay()
    choreography, effects = choreograph(subscriptions), PostgresEffects(database, store)
    consumer = Consumer(
        group=GROUP,
        subscriptions=subscriptions,
        source=MemorySource(topics),
        effects=effects,
        retry_policy=RetryPolicy(first_delay_seconds=0.02),
        limits=ConsumerLimits(idle_seconds=0.02, batch_size_max=25),
    )
    return consumer, DeadlineWorker(choreography, effects, poll_seconds_max=0.05)


@asynccontextmanager
async def running(database: Database, *, deadline_workers: int = 1) -> AsyncIterator[None]:
    """The service at work while the block runs."""
    consumer, first = await workers(database)
    others = [(await workers(database))[1] for _ in range(deadline_workers - 1)]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(worker.run()) for worker in (consumer, first, *others)]
        yield
        for task in tasks:
            task.cancel()


async def main(config: dict[str, Any]) -> None:
    async with Database(config["dsn"], connections_max=4) as database:
        consumer, deadlines = await workers(database)
        async with asyncio.TaskGroup() as group:
            if config.get("consumes", True):
                group.create_task(consumer.run())
            group.create_task(deadlines.run())


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
