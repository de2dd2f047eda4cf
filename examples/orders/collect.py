"""Brings the evidence together once a run is over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, Final

from headwater import Projection, Service
from headwater.postgres import Database
from orders.evidence import Evidence, Log, Row, read_kafka, read_log
from orders.inventory import StockLevel
from orders.northwind import load_products
from orders.orders import CustomerOrders, OrderStatus

CATCH_UP_TIMEOUT_SECONDS: Final = 15.0
POLL_INTERVAL_SECONDS: Final = 0.05


async def collect(orders: Service, inventory: Service, kafka: str, order_count: int) -> Evidence:
    """Both logs, all of Kafka, every read model, and what `service.verify` says of them."""
    await asyncio.gather(_caught_up(orders.database), _caught_up(inventory.database))
    return Evidence(
        initial_stock={product.product_id: product.units_in_stock for product in load_products()},
        order_count=order_count,
        orders=await _log_of(orders.database),
        inventory=await _log_of(inventory.database),
        records=await read_kafka(kafka),
        order_status=await _rows_by_key(orders.read_all(OrderStatus)),
        stock_level=await _rows_by_key(inventory.read_all(StockLevel)),
        customer_orders=await _customer_rows(orders.database),
        differences={
            **{read_model.projection_name: await _differences(orders, read_model) for read_model in (OrderStatus, CustomerOrders)},
            StockLevel.projection_name: await _differences(inventory, StockLevel),
        },
    )


async def _caught_up(database: Database) -> None:
    """Return once every read model has read the log to its end. One that never gets there is for the checks to find."""
    until = time.monotonic() + CATCH_UP_TIMEOUT_SECONDS
    while time.monotonic() < until:
        async with database.connection() as connection:
            behind = await connection.fetchval(
                "SELECT count(*) FROM headwater.projections WHERE global_position < (SELECT max(global_position) FROM headwater.events)"
            )
        if behind == 0:
            return
        await asyncio.sleep(POLL_INTERVAL_SECONDS)


async def _log_of(database: Database) -> Log:
    async with database.connection() as connection:
        return await read_log(connection)


async def _rows_by_key(rows: AsyncIterator[Projection]) -> dict[str, Row]:
    return {row.row_key: row.model_dump() async for row in rows}


async def _customer_rows(database: Database) -> dict[str, Row]:
    async with database.connection() as connection:
        rows = await connection.fetch("SELECT customer_id, orders, units, amount FROM projection_customer_orders.customer_orders")
    return {row["customer_id"]: dict(row) for row in rows}


async def _differences(service: Service, read_model: Any) -> list[str]:
    verification = await service.verify(read_model)
    return [f"row {d.row!r} is {d.stored}, but the log says {d.expected}" for d in verification.differences]
