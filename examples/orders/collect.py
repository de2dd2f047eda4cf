"""Brings the evidence together once a run is over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from headwater import Projection, Service
from headwater.postgres import Database
from headwater.sagas import Sagas
from orders.evidence import Evidence, Log, Row, read_kafka, read_log
from orders.inventory import StockLevel
from orders.northwind import load_products
from orders.orders import OrderStatus, Revenue

CATCH_UP_TIMEOUT_SECONDS: Final = 15.0
POLL_INTERVAL_SECONDS: Final = 0.05


async def collect(clients: Mapping[str, Service], kafka: str, order_count: int) -> Evidence:
    """Every log, all of Kafka, every read model, what `service.verify` says of them, and the sagas."""
    orders, inventory = clients["orders"], clients["inventory"]
    await asyncio.gather(*(_caught_up(client.database) for client in clients.values()))
    return Evidence(
        initial_stock={product.product_id: product.units_in_stock for product in load_products()},
        order_count=order_count,
        logs={name: await _log_of(client.database) for name, client in clients.items()},
        records=await read_kafka(kafka),
        order_status=await _rows_by_key(orders.read_all(OrderStatus)),
        stock_level=await _rows_by_key(inventory.read_all(StockLevel)),
        revenue=await _revenue_rows(orders),
        differences={
            read_model.projection_name: await _differences(service, read_model)
            for service, read_model in ((orders, OrderStatus), (orders, Revenue), (inventory, StockLevel))
        },
        sagas={status.value: count for status, count in (await Sagas(orders.database).count()).items()},
        dead_letters=tuple([letter for name, client in clients.items() for letter in await _dead_letters(name, client.database)]),
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


async def _revenue_rows(orders: Service) -> dict[str, Row]:
    async with orders.query(Revenue) as connection:
        rows = await connection.fetch("SELECT customer_id, month, orders, amount FROM revenue")
    return {f"{row['customer_id']} {row['month']:%Y-%m}": {"orders": row["orders"], "amount": row["amount"]} for row in rows}


async def _differences(service: Service, read_model: Any) -> list[str]:
    verification = await service.verify(read_model)
    return [f"row {d.row!r} is {d.stored}, but the log says {d.expected}" for d in verification.differences]


async def _dead_letters(service: str, database: Database) -> list[str]:
    async with database.connection() as connection:
        rows = await connection.fetch("SELECT * FROM headwater.dead_letters")
        parked = await connection.fetch("SELECT handler_name, message_key FROM headwater.parked_keys")
    return [
        f"{service}: {row['handler_name']} gave up on {row['event_type']} of {row['stream_name']}: {row['error_message']}" for row in rows
    ] + [f"{service}: {row['handler_name']} still fails at {row['message_key']}" for row in parked]
