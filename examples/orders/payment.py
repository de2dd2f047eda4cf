"""The payment service: asks for money, takes it, and gives it back.

Run it: headwater run orders.payment:service

Each payment is a stream, `payment-<order id>`. What happens to it is decided in one pure function, over what the stream tells; so it makes
no difference how often a command comes, and in which order money and cancellation meet.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum
from typing import TypeAlias

from headwater import Context, Decider, Event, Service
from orders.commands import CancelPayment, Decline, Pay, RequestPayment
from orders.customers import Behaviour, behaviour_of
from orders.events import PaymentCancelled, PaymentDeclined, PaymentReceived, PaymentRefunded, PaymentRequested

service = Service("payment")
for fact in (PaymentRequested, PaymentReceived, PaymentDeclined, PaymentCancelled, PaymentRefunded):
    service.events.register(fact)  # what no handler here takes, but the service says: its schema is on Kafka when the service runs

Command: TypeAlias = RequestPayment | Pay | Decline | CancelPayment


class Status(StrEnum):
    """Where a payment stands."""

    UNKNOWN = "unknown"
    REQUESTED = "requested"
    RECEIVED = "received"
    DECLINED = "declined"
    CANCELLED = "cancelled"
    REFUNDED = "refunded"


@dataclass(frozen=True, slots=True)
class Payment:
    """One payment as its stream tells it."""

    status: Status = Status.UNKNOWN
    amount: Decimal = Decimal(0)


def evolve(payment: Payment, event: Event) -> Payment:
    """The payment after one more event."""
    match event:
        case PaymentRequested():
            return replace(payment, status=Status.REQUESTED, amount=event.amount)
        case PaymentReceived():
            return replace(payment, status=Status.RECEIVED)
        case PaymentDeclined():
            return replace(payment, status=Status.DECLINED)
        case PaymentCancelled():
            return replace(payment, status=Status.CANCELLED)
        case PaymentRefunded():
            return replace(payment, status=Status.REFUNDED)
        case _:
            return payment


def decide(command: Command, payment: Payment) -> list[Event]:
    """What follows from a command; nothing, when it comes a second time or too late to matter."""
    order_id, amount = command.order_id, payment.amount
    match command, payment.status:
        case RequestPayment(), Status.UNKNOWN:
            return [PaymentRequested(order_id=order_id, customer_id=command.customer_id, amount=command.amount)]
        case Pay(), Status.REQUESTED:
            return [PaymentReceived(order_id=order_id, amount=amount)]
        case Pay(), Status.CANCELLED if amount:  # too late: nobody will ship for it
            return [PaymentReceived(order_id=order_id, amount=amount), PaymentRefunded(order_id=order_id, amount=amount)]
        case Decline(), Status.REQUESTED:
            return [PaymentDeclined(order_id=order_id)]
        case CancelPayment(), Status.UNKNOWN | Status.REQUESTED:
            return [PaymentCancelled(order_id=order_id)]
        case CancelPayment(), Status.RECEIVED:
            return [PaymentRefunded(order_id=order_id, amount=amount)]
        case _:
            return []


PAYMENT = Decider(initial_state=Payment(), decide=decide, evolve=evolve)


@service.on(RequestPayment, CancelPayment, Pay, Decline)
async def act(command: RequestPayment | CancelPayment | Pay | Decline, context: Context) -> None:
    """Decide on the payment's stream, in the transaction that moves the place in the topic."""
    await service.decide(f"payment-{command.order_id}", command, PAYMENT, connection=context.connection)


# -- the world outside ------------------------------------------------------------------------------------------------


@service.on(PaymentRequested)
async def bill(event: PaymentRequested, context: Context) -> None:
    """The customer gets a bill. Most pay at once; the bank of some declines; a few do not answer."""
    match behaviour_of(event.order_id):
        case Behaviour.PAYS:
            await context.publish(Pay(order_id=event.order_id), key=str(event.order_id))
        case Behaviour.IS_DECLINED:
            await context.publish(Decline(order_id=event.order_id), key=str(event.order_id))
        case Behaviour.NEVER_PAYS | Behaviour.PAYS_LATE:
            pass


@service.on(PaymentCancelled)
async def remember(event: PaymentCancelled, context: Context) -> None:
    """Nothing reminds a late payer of a bill like hearing that it is void."""
    if behaviour_of(event.order_id) is Behaviour.PAYS_LATE:
        await context.publish(Pay(order_id=event.order_id), key=str(event.order_id))
