"""A saga as users write them: stock, then payment, each of which can be undone, and time that runs out."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

from headwater.messages import Event
from headwater.sagas import Saga, SagaContext, Step, on, on_deadline, starts_on, when_compensated


class OrderPlaced(Event, category="order"):
    order_id: str
    amount: Decimal = Decimal(10)


class OrderConfirmed(Event, category="order"):
    order_id: str


class OrderCancelled(Event, category="order"):
    order_id: str
    reason: str


class ReserveStock(Event, category="stock"):
    order_id: str


class ReleaseStock(Event, category="stock"):
    order_id: str


class StockReserved(Event, category="reservation"):
    order_id: str


class StockShort(Event, category="reservation"):
    order_id: str


class StockReleased(Event, category="reservation"):
    order_id: str


class TakePayment(Event, category="payment"):
    order_id: str
    amount: Decimal


class RefundPayment(Event, category="payment"):
    order_id: str


class PaymentTaken(Event, category="paid"):
    order_id: str


class PaymentFailed(Event, category="paid"):
    order_id: str


class PaymentRefunded(Event, category="paid"):
    order_id: str


class OrderFulfilment(Saga, key="order_id"):
    reserve_stock = Step(
        done_by=StockReserved, failed_by=StockShort, undone_by=StockReleased, undone_within=timedelta(seconds=20), undo_attempts_max=3
    )
    take_payment = Step(done_by=PaymentTaken, failed_by=PaymentFailed, undone_by=PaymentRefunded)

    amount: Decimal = Decimal(0)
    handled: int = 0

    @starts_on(OrderPlaced)
    async def placed(self, event: OrderPlaced, saga: SagaContext) -> None:
        self.amount = event.amount
        order_id = event.order_id
        await saga.send(self.reserve_stock, ReserveStock(order_id=order_id), compensation=ReleaseStock(order_id=order_id))

    @on(StockReserved)
    async def reserved(self, event: StockReserved, saga: SagaContext) -> None:
        self.handled += 1
        order_id = event.order_id
        await saga.send(
            self.take_payment, TakePayment(order_id=order_id, amount=self.amount), compensation=RefundPayment(order_id=order_id)
        )
        saga.set_deadline("payment", after=timedelta(seconds=30))

    @on(PaymentTaken)
    async def paid(self, event: PaymentTaken, saga: SagaContext) -> None:
        self.handled += 1
        await saga.append(f"order-{event.order_id}", OrderConfirmed(order_id=event.order_id))
        saga.complete()

    @on_deadline("payment")
    async def unpaid(self, saga: SagaContext) -> None:
        await saga.compensate("not paid in time")

    @when_compensated
    async def cancelled(self, saga: SagaContext) -> None:
        await saga.append(f"order-{saga.key}", OrderCancelled(order_id=saga.key, reason=saga.reason or ""))
