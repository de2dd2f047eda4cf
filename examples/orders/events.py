"""What can happen, as classes: the facts that the four services tell each other.

An event's category names its topic and its streams: `OrderPlaced` lives in `order-<id>`, because its first word says so. Where the first word
would say something else, the class says its category.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from enum import StrEnum
from typing import Final
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from headwater import Event

CENT: Final = Decimal("0.01")


class OrderLine(BaseModel):
    """So many units of one product, at a price."""

    model_config = ConfigDict(frozen=True)

    product_id: int
    quantity: int = Field(gt=0)
    unit_price: Decimal
    discount: Decimal = Decimal(0)

    @property
    def amount(self) -> Decimal:
        """What the line costs, in whole cents."""
        return (self.quantity * self.unit_price * (1 - self.discount)).quantize(CENT, ROUND_HALF_UP)


class Units(BaseModel):
    """So many units of one product."""

    model_config = ConfigDict(frozen=True)

    product_id: int
    units: int = Field(gt=0)


# -- the orders service says ------------------------------------------------------------------------------------------


class OrderPlaced(Event):
    """A customer wants these lines: all of them, or none."""

    order_id: UUID
    order_number: int
    customer_id: str
    ordered_at: datetime
    ship_country: str
    lines: tuple[OrderLine, ...] = Field(min_length=1)

    @property
    def amount(self) -> Decimal:
        """What all lines cost."""
        return sum((line.amount for line in self.lines), Decimal(0))

    def units(self) -> tuple[Units, ...]:
        """How many units of each product, in order of product."""
        units: Counter[int] = Counter()
        for line in self.lines:
            units[line.product_id] += line.quantity
        return tuple(Units(product_id=product_id, units=count) for product_id, count in sorted(units.items()))


class OrderPaid(Event):
    """The customer's money is there."""

    order_id: UUID


class OrderConfirmed(Event):
    """Reserved, paid and shipped: a good end."""

    order_id: UUID
    customer_id: str
    ordered_at: datetime
    amount: Decimal


class Cause(StrEnum):
    """Why an order was cancelled."""

    NO_STOCK = "no stock"
    DECLINED = "payment declined"
    UNPAID = "not paid in time"


class OrderCancelled(Event):
    """The other end: whatever had been done is undone."""

    order_id: UUID
    cause: Cause
    reason: str


# -- the inventory service says ---------------------------------------------------------------------------------------


class StockCounted(Event):
    """So many units lie on the shelf: how a product's stream begins."""

    product_id: int
    product_name: str
    units: int = Field(ge=0)


class UnitsReserved(Event, category="stock"):
    """Units left the shelf for an order."""

    product_id: int
    order_id: UUID
    units: int = Field(gt=0)


class UnitsReleased(Event, category="stock"):
    """Units are back on the shelf, for others."""

    product_id: int
    order_id: UUID
    units: int = Field(gt=0)


class StockReserved(Event, category="reservation"):
    """Every line is reserved."""

    order_id: UUID
    units: tuple[Units, ...]


class ReservationRejected(Event):
    """Nothing is reserved, for want of this product."""

    order_id: UUID
    reason: str
    product_id: int
    units_wanted: int
    units_available: int


class StockReleased(Event, category="reservation"):
    """Nothing is reserved any more; where nothing was, nothing ever will be."""

    order_id: UUID


# -- the payment service says -----------------------------------------------------------------------------------------


class PaymentRequested(Event):
    """The customer has the bill."""

    order_id: UUID
    customer_id: str
    amount: Decimal


class PaymentReceived(Event):
    """The money is there."""

    order_id: UUID
    amount: Decimal


class PaymentDeclined(Event):
    """The customer's bank said no."""

    order_id: UUID


class PaymentCancelled(Event):
    """No money is expected any more."""

    order_id: UUID


class PaymentRefunded(Event):
    """The money went back."""

    order_id: UUID
    amount: Decimal


# -- the shipping service says ----------------------------------------------------------------------------------------


class ShipmentSent(Event):
    """Every unit is on its way to the customer."""

    order_id: UUID
    ship_country: str
    units: tuple[Units, ...]
