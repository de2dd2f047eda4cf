"""The story of one order, from its placing to one of its two ends.

    OrderPlaced ─▶ reserve stock ─▶ take payment ─▶ ship ─▶ OrderConfirmed
                        │                │
                  out of stock     declined, or not paid in time
                        ▼                ▼
                  OrderCancelled ◀─ release stock ◀─ give money back

A saga: its methods are called with what happened, and send commands. State, commands and deadlines are kept together with the place in the
topic, or not at all. What has to be undone, Headwater knows from the steps that were sent: last first, also those nobody has answered for.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import ClassVar, Final
from uuid import UUID

from headwater import on
from headwater.sagas import Saga, SagaContext, Step, on_deadline, starts_on, when_compensated
from orders.commands import CancelPayment, ReleaseStock, RequestPayment, ReserveStock, ShipOrder
from orders.events import (
    Cause,
    OrderCancelled,
    OrderConfirmed,
    OrderPaid,
    OrderPlaced,
    PaymentCancelled,
    PaymentDeclined,
    PaymentReceived,
    PaymentRefunded,
    ReservationRejected,
    ShipmentSent,
    StockReleased,
    StockReserved,
    Units,
)

PAYMENT_WITHIN: Final = timedelta(seconds=float(os.environ.get("ORDERS_PAYMENT_SECONDS", "5")))
"""How long a customer may take to pay before somebody else gets the stock."""
PLACED, PAID = 1, 2
"""Versions of an order's stream after each of its first events; expecting them, an order can have no second end."""


def stream_of(order_id: UUID) -> str:
    """The stream of one order."""
    return f"order-{order_id}"


class OrderFulfilment(Saga, key="order_id"):
    """One for each order."""

    reserve_stock: ClassVar = Step(done_by=StockReserved, failed_by=ReservationRejected, undone_by=StockReleased)
    take_payment: ClassVar = Step(done_by=PaymentReceived, failed_by=PaymentDeclined, undone_by=(PaymentCancelled, PaymentRefunded))
    ship_order: ClassVar = Step(done_by=ShipmentSent)

    order_id: UUID = UUID(int=0)
    customer_id: str = ""
    ordered_at: datetime = datetime.min.replace(tzinfo=UTC)
    ship_country: str = ""
    amount: Decimal = Decimal(0)
    units: tuple[Units, ...] = ()
    cause: Cause = Cause.NO_STOCK

    @starts_on(OrderPlaced)
    async def placed(self, order: OrderPlaced, saga: SagaContext) -> None:
        self.order_id, self.customer_id, self.ordered_at = order.order_id, order.customer_id, order.ordered_at
        self.ship_country, self.amount, self.units = order.ship_country, order.amount, order.units()
        reserve = ReserveStock(order_id=self.order_id, units=self.units)
        await saga.send(self.reserve_stock, reserve, compensation=ReleaseStock(order_id=self.order_id))

    @on(StockReserved)
    async def reserved(self, _event: StockReserved, saga: SagaContext) -> None:
        request = RequestPayment(order_id=self.order_id, customer_id=self.customer_id, amount=self.amount)
        await saga.send(self.take_payment, request, compensation=CancelPayment(order_id=self.order_id))
        saga.set_deadline("payment", after=PAYMENT_WITHIN)

    @on(PaymentReceived)
    async def paid(self, _event: PaymentReceived, saga: SagaContext) -> None:
        saga.cancel_deadline("payment")
        await saga.append(stream_of(self.order_id), OrderPaid(order_id=self.order_id), expected_version=PLACED)
        await saga.send(self.ship_order, ShipOrder(order_id=self.order_id, ship_country=self.ship_country, units=self.units))

    @on(ShipmentSent)
    async def shipped(self, _event: ShipmentSent, saga: SagaContext) -> None:
        confirmed = OrderConfirmed(order_id=self.order_id, customer_id=self.customer_id, ordered_at=self.ordered_at, amount=self.amount)
        await saga.append(stream_of(self.order_id), confirmed, expected_version=PAID)
        saga.complete()

    # -- the other ends ------------------------------------------------------------------------------------------------

    @on(ReservationRejected)
    async def sold_out(self, event: ReservationRejected, saga: SagaContext) -> None:
        self.cause = Cause.NO_STOCK
        await saga.compensate(event.reason)

    @on(PaymentDeclined)
    async def declined(self, _event: PaymentDeclined, saga: SagaContext) -> None:
        self.cause = Cause.DECLINED
        await saga.compensate("the customer's bank declined the payment")

    @on_deadline("payment")
    async def unpaid(self, saga: SagaContext) -> None:
        self.cause = Cause.UNPAID
        await saga.compensate(f"not paid within {PAYMENT_WITHIN.total_seconds():g} s")

    @when_compensated
    async def cancelled(self, saga: SagaContext) -> None:
        event = OrderCancelled(order_id=self.order_id, cause=self.cause, reason=saga.reason or "")
        await saga.append(stream_of(self.order_id), event, expected_version=PLACED)
