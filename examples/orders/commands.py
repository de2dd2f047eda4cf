"""What one service asks of another: messages that are no facts, each in the topic of the service that is to act."""

from __future__ import annotations

from decimal import Decimal
from uuid import UUID

from headwater import Event
from orders.events import Units


class ReserveStock(Event, category="to_inventory"):
    """Reserve every line, or none."""

    order_id: UUID
    units: tuple[Units, ...]


class ReleaseStock(Event, category="to_inventory"):
    """Put back whatever is reserved for this order."""

    order_id: UUID


class RequestPayment(Event, category="to_payment"):
    """Send the customer a bill."""

    order_id: UUID
    customer_id: str
    amount: Decimal


class CancelPayment(Event, category="to_payment"):
    """Take no money for this order; if it is there, give it back."""

    order_id: UUID


class Pay(Event, category="to_payment"):
    """From the customer's bank: here is the money."""

    order_id: UUID


class Decline(Event, category="to_payment"):
    """From the customer's bank: there is none."""

    order_id: UUID


class ShipOrder(Event, category="to_shipping"):
    """Send these units."""

    order_id: UUID
    ship_country: str
    units: tuple[Units, ...]
