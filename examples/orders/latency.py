"""How long it takes from a payment until the order's status shows it, as somebody sees it who keeps looking."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final

from headwater import Service
from orders.evidence import Log
from orders.orders import OrderStatus

LOOK_INTERVAL_SECONDS: Final = 0.01
WORK_SHARE_MAX: Final = 0.1
"""Looking may take so much of the time; the more orders there are, the less often somebody looks."""


@asynccontextmanager
async def watch_paid(orders: Service) -> AsyncIterator[Mapping[str, datetime]]:
    """When each order was first seen as paid, by the database's clock; grows as long as the block runs."""
    seen: dict[str, datetime] = {}
    looking = asyncio.create_task(_look(orders, seen))
    try:
        yield seen
    finally:
        looking.cancel()
        await asyncio.wait([looking])
    if not looking.cancelled():
        looking.result()


async def _look(orders: Service, seen: dict[str, datetime]) -> None:
    while True:
        started = time.monotonic()
        async with orders.query(OrderStatus) as connection:
            rows = await connection.fetch(
                "SELECT key, clock_timestamp() AS seen_at FROM states WHERE state ->> 'status' IN ('paid', 'confirmed')"
            )
        for row in rows:
            seen.setdefault(row["key"], row["seen_at"])
        await asyncio.sleep(max(LOOK_INTERVAL_SECONDS, (time.monotonic() - started) / WORK_SHARE_MAX))


def delays_seconds(payment: Log, seen: Mapping[str, datetime]) -> list[float]:
    """From each payment event to the order's status, in order of length."""
    received = {event.data["order_id"]: event.recorded_at for event in payment.events if event.type == "PaymentReceived"}
    return sorted((seen[order_id] - at).total_seconds() for order_id, at in received.items() if order_id in seen)


def percentile(ordered: Sequence[float], percent: int) -> float | None:
    """The smallest value that so many percent of all do not exceed; None when there are none."""
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)] if ordered else None
