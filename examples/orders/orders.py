"""The orders service: takes orders, sees each through to its end, and shows where they stand.

Run it: headwater run orders.orders:service
"""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

from headwater import Projection, Service, SqlProjection, on
from headwater.postgres import Connection
from orders.commands import CancelPayment, ReleaseStock, RequestPayment, ReserveStock, ShipOrder
from orders.events import Cause, OrderCancelled, OrderConfirmed, OrderPaid, OrderPlaced
from orders.fulfilment import OrderFulfilment

service = Service("orders")
for command_class in (ReserveStock, ReleaseStock, RequestPayment, CancelPayment, ShipOrder):
    service.events.register(command_class)
service.saga(OrderFulfilment)


@service.projection
class OrderStatus(Projection, key="order_id"):
    """Where an order stands: a fold, which Headwater keeps and can rebuild (`headwater replay order_status`)."""

    customer_id: str = ""
    amount: Decimal = Decimal(0)
    status: Literal["placed", "paid", "confirmed", "cancelled"] = "placed"
    cause: Cause | None = None
    reason: str | None = None

    @on(OrderPlaced)
    def placed(self, event: OrderPlaced) -> None:
        self.customer_id, self.amount = event.customer_id, event.amount

    @on(OrderPaid)
    def paid(self, _event: OrderPaid) -> None:
        self.status = "paid"

    @on(OrderConfirmed)
    def confirmed(self, _event: OrderConfirmed) -> None:
        self.status = "confirmed"

    @on(OrderCancelled)
    def cancelled(self, event: OrderCancelled) -> None:
        self.status, self.cause, self.reason = "cancelled", event.cause, event.reason


@service.projection
class Revenue(SqlProjection):
    """What each customer brought in each month: a table of its own, to be joined and summed in SQL (`projection_revenue.revenue`)."""

    tables = """
        CREATE TABLE revenue (
            customer_id text    NOT NULL,
            month       date    NOT NULL,
            orders      bigint  NOT NULL,
            amount      numeric NOT NULL,
            PRIMARY KEY (customer_id, month)
        )
    """

    @on(OrderConfirmed)
    async def confirmed(self, event: OrderConfirmed, connection: Connection) -> None:
        await connection.execute(
            """
            INSERT INTO revenue AS r (customer_id, month, orders, amount) VALUES ($1, $2, 1, $3)
            ON CONFLICT (customer_id, month) DO UPDATE
               SET orders = r.orders + 1, amount = r.amount + excluded.amount
            """,
            event.customer_id,
            event.ordered_at.date().replace(day=1),
            event.amount,
        )
