"""The orders service: takes orders, and learns from the inventory whether they can be met.

Run it: headwater run orders.orders:service
"""

from __future__ import annotations

from decimal import Decimal
from typing import Literal
from uuid import UUID

from headwater import Context, Projection, Service, SqlProjection, on
from headwater.postgres import Connection
from orders.events import OrderConfirmed, OrderPlaced, OrderRejected, ReservationRejected, StockReserved

service = Service("orders")


def stream_of(order_id: UUID) -> str:
    """The stream of one order."""
    return f"order-{order_id}"


# An order's stream begins with OrderPlaced, so whoever answers finds exactly one event in it. A second answer would be refused.


@service.on(StockReserved)
async def confirm(event: StockReserved, context: Context) -> None:
    await context.append(stream_of(event.order_id), OrderConfirmed(order_id=event.order_id), expected_version=1)


@service.on(ReservationRejected)
async def reject(event: ReservationRejected, context: Context) -> None:
    await context.append(stream_of(event.order_id), OrderRejected(order_id=event.order_id, reason=event.reason), expected_version=1)


@service.projection
class OrderStatus(Projection, key="order_id"):
    """Where an order stands: a fold, which Headwater keeps and can rebuild (`headwater replay order_status`)."""

    customer_id: str = ""
    amount: Decimal = Decimal(0)
    status: Literal["placed", "confirmed", "rejected"] = "placed"
    reason: str | None = None

    @on(OrderPlaced)
    def placed(self, event: OrderPlaced) -> None:
        self.customer_id, self.amount = event.customer_id, event.amount

    @on(OrderConfirmed)
    def confirmed(self, _event: OrderConfirmed) -> None:
        self.status = "confirmed"

    @on(OrderRejected)
    def rejected(self, event: OrderRejected) -> None:
        self.status, self.reason = "rejected", event.reason


@service.projection
class CustomerOrders(SqlProjection):
    """What each customer ordered: a table of its own, to be joined and summed in SQL (`projection_customer_orders.customer_orders`)."""

    tables = """
        CREATE TABLE customer_orders (
            customer_id text    PRIMARY KEY,
            orders      bigint  NOT NULL,
            units       bigint  NOT NULL,
            amount      numeric NOT NULL
        )
    """

    @on(OrderPlaced)
    async def placed(self, event: OrderPlaced, connection: Connection) -> None:
        await connection.execute(
            """
            INSERT INTO customer_orders AS c (customer_id, orders, units, amount) VALUES ($1, 1, $2, $3)
            ON CONFLICT (customer_id) DO UPDATE
               SET orders = c.orders + 1, units = c.units + excluded.units, amount = c.amount + excluded.amount
            """,
            event.customer_id,
            sum(line.quantity for line in event.lines),
            event.amount,
        )
