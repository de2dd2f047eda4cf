"""A whole service with `source="postgres"`: no broker is asked for anything."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import pytest
from pydantic import field_validator

from headwater import Context, Event, Personal, Projection, Saga, SagaContext, Service, Step, on, on_deadline, starts_on
from headwater.bus import DeadLetterDesk, FedByAnother, PostgresEffects, list_groups, require_source
from headwater.config import Settings
from headwater.errors import BrokerUnavailable, UsageError
from headwater.eventstore import PostgresEventStore
from headwater.kafka import Partition
from headwater.messages import NewEvent
from headwater.postgres import Database
from headwater.testing import eventually

NOBODY = "127.0.0.1:1"
"""Where no broker listens."""


REFUSED: set[str] = set()
"""What no longer fits, though it did when it was stored."""


class OrderPlaced(Event):
    order_id: str
    sku: str
    buyer: Annotated[str, Personal("order_id")] = "Ada Lovelace"

    @field_validator("sku")
    @classmethod
    def _fits(cls, sku: str) -> str:
        if sku in REFUSED:
            raise ValueError("never this")
        return sku


class StockReserved(Event):
    order_id: str


class PaymentAsked(Event, category="payment"):
    order_id: str


class PaymentTaken(Event, category="payment"):
    order_id: str


class OrderConfirmed(Event):
    order_id: str
    reason: str


def shop(dsn: str, source: str | None = "postgres", *, setting: str = "kafka") -> Service:
    service = Service("shop", source=source, settings=Settings(postgres=dsn, kafka=NOBODY, source=setting))  # type: ignore[arg-type]

    @service.on(OrderPlaced)
    async def reserve(event: OrderPlaced, context: Context) -> None:
        assert event.buyer == "Ada Lovelace"
        await context.append(f"stock-{event.sku}", StockReserved(order_id=event.order_id))

    @service.on(PaymentAsked)
    async def charge(event: PaymentAsked, context: Context) -> None:
        if event.order_id != "unpaid":
            await context.append(f"payment-{event.order_id}", PaymentTaken(order_id=event.order_id))

    @service.saga
    class Checkout(Saga, key="order_id"):
        payment = Step(done_by=PaymentTaken)

        @starts_on(OrderPlaced)
        async def placed(self, event: OrderPlaced, saga: SagaContext) -> None:
            await saga.send(self.payment, PaymentAsked(order_id=event.order_id))
            saga.set_deadline("payment", after=timedelta(seconds=0.3 if event.order_id == "unpaid" else 60))

        @on(PaymentTaken)
        async def paid(self, event: PaymentTaken, saga: SagaContext) -> None:
            await saga.append(f"order-{event.order_id}", OrderConfirmed(order_id=event.order_id, reason="paid"))
            saga.complete()

        @on_deadline("payment")
        async def unpaid(self, saga: SagaContext) -> None:
            await saga.append(f"order-{saga.key}", OrderConfirmed(order_id=saga.key, reason="on credit"))
            saga.complete()

    @service.projection
    class Reserved(Projection):
        orders: int = 0

        @on(StockReserved)
        def reserved(self, event: StockReserved) -> None:
            self.orders += 1

    return service


async def reasons(service: Service, order_id: str) -> list[str]:
    events = [event async for event in service.store.read_stream(f"order-{order_id}") if event.type == "OrderConfirmed"]
    return [OrderConfirmed.model_validate_json(event.data).reason for event in events]


async def test_handlers_sagas_deadlines_messages_and_read_models_work_from_the_log(database: Database) -> None:
    async with shop(database.dsn) as service:
        for order_id in ("1", "2", "unpaid"):
            await service.store.append(f"order-{order_id}", [OrderPlaced(order_id=order_id, sku="chai")], expected_version=0)
        await service.events.publish("OrderPlaced", {"order_id": "3", "sku": "chai"})

        async def are_confirmed() -> bool:
            return [await reasons(service, order_id) for order_id in ("1", "2", "unpaid", "3")] == [
                ["paid"],
                ["paid"],
                ["on credit"],
                ["paid"],
            ]

        await eventually(are_confirmed, 30)
        await eventually(lambda: _stream_has(service, "stock-chai", 4), 30)
        assert "kafka" not in service.addresses()
        projection = service.find_projection("reserved")
        row = await service.read(projection, consistency="strong")  # type: ignore[type-var]
        assert row is not None
        assert row.orders == 4  # type: ignore[attr-defined]
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM headwater.dead_letters") == 0
        topics = await connection.fetch("SELECT DISTINCT topic FROM headwater.consumer_positions ORDER BY topic")
        assert [row["topic"] for row in topics] == ["log:order", "log:payment"]


async def _stream_has(service: Service, stream_name: str, count: int) -> bool:
    return await service.store.stream_version(stream_name) == count


async def test_dead_letters_keep_personal_data_sealed_and_can_be_retried(database: Database) -> None:
    async with shop(database.dsn) as service:
        await service.store.append("order-1", [OrderPlaced(order_id="1", sku="fine")], expected_version=0)
        event = NewEvent("OrderPlaced", '{"order_id": "2", "sku": 5}')
        await service.store.append("order-2", [event], expected_version=0)
        await eventually(lambda: _letters(service, 2), 30)
        letters = await service.dead_letters.list()
        assert {letter.stream_name for letter in letters} == {"order-2"}
        assert {letter.partition.topic for letter in letters} == {"log:order"}
        ids = [letter.dead_letter_id for letter in letters if letter.dead_letter_id is not None]
        assert await DeadLetterDesk(database).retry(ids) == frozenset(ids)
        await eventually(lambda: _were_tried_again(service), 30)


async def test_an_order_that_cannot_be_handled_is_kept_with_its_personal_data_sealed(database: Database) -> None:
    async with shop(database.dsn).connect() as service:
        await service.store.append("order-1", [OrderPlaced(order_id="1", sku="poison")], expected_version=0)
    REFUSED.add("poison")
    try:
        async with shop(database.dsn) as service:
            await eventually(lambda: _letters(service, 2), 30)
            letters = await service.dead_letters.list()
    finally:
        REFUSED.clear()
    assert all("never this" in letter.error_message for letter in letters)
    assert all("poison" in str(letter.data) for letter in letters)
    assert "Lovelace" not in str(letters)


async def _letters(service: Service, count: int) -> bool:
    return await service.dead_letters.count() == count


async def _were_tried_again(service: Service) -> bool:
    return all(letter.attempts > 1 for letter in await service.dead_letters.list())


async def test_the_setting_chooses_as_the_argument_does_and_the_argument_counts_over_it(database: Database) -> None:
    async with shop(database.dsn, None, setting="postgres") as service:
        await service.store.append("order-1", [OrderPlaced(order_id="1", sku="chai")], expected_version=0)
        await eventually(lambda: _stream_has(service, "stock-chai", 1), 30)
    with pytest.raises(BrokerUnavailable):
        async with shop(database.dsn, "kafka", setting="postgres"):
            pass
    with pytest.raises(UsageError, match="neither 'kafka' nor 'postgres'"):
        shop(database.dsn, "rabbit")


@pytest.mark.parametrize(("topic", "source"), [("order", "postgres"), ("log:order", "kafka")])
async def test_another_source_than_before_is_refused_before_anything_happens_twice(database: Database, topic: str, source: str) -> None:
    await PostgresEffects(database, PostgresEventStore(database)).claim("shop", Partition(topic, 0))
    async with database.connection() as connection:
        await connection.execute("UPDATE headwater.consumer_positions SET next_offset = 7")
    with pytest.raises(UsageError, match="a second time"):
        await require_source(database, "shop", source)  # type: ignore[arg-type]
    await require_source(database, "other", source)  # type: ignore[arg-type]
    if source == "postgres":
        with pytest.raises(UsageError, match="a second time"):
            async with shop(database.dsn):
                pass


async def test_a_group_that_has_handled_nothing_changes_its_source_by_itself(database: Database) -> None:
    effects = PostgresEffects(database, PostgresEventStore(database))
    claimed = await effects.claim("shop", Partition("order", 0))
    async with shop(database.dsn):
        pass
    assert [(group.name, group.source) for group in await list_groups(database)] == [("shop", "postgres")]
    with pytest.raises(FedByAnother):
        await effects.claim("shop", Partition("order", 0))
    assert await effects.confirm("shop", claimed) is None


async def test_appending_needs_no_broker_either(database: Database) -> None:
    async with shop(database.dsn).connect() as service:
        await service.store.append("order-1", [OrderPlaced(order_id="1", sku="chai")], expected_version=0)
