"""What can happen, as classes: the words that both services share.

An event's category names its topic and its streams: `OrderPlaced` lives in `order-<id>`, because its first word says so. Where the first word
would say something else, the class says its category.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
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

    def units_by_product(self) -> dict[int, int]:
        """How many units of each product, in order of product."""
        units: Counter[int] = Counter()
        for line in self.lines:
            units[line.product_id] += line.quantity
        return dict(sorted(units.items()))


class OrderConfirmed(Event):
    """Every line is reserved."""

    order_id: UUID


class OrderRejected(Event):
    """No line is reserved."""

    order_id: UUID
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


class StockReserved(Event, category="reservation"):
    """The answer to an order: every line is reserved."""

    order_id: UUID
    units: int


class ReservationRejected(Event):
    """The answer to an order: nothing is reserved, for want of this product."""

    order_id: UUID
    reason: str
    product_id: int
    units_wanted: int
    units_available: int
