"""What the benchmarks write and read: real orders, as typed events."""

from __future__ import annotations

import csv
from collections import defaultdict
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Final
from uuid import UUID, uuid5

from pydantic import BaseModel

from headwater import Event

DATA: Final = Path(__file__).parent.parent / "examples" / "orders" / "data"
ID_NAMESPACE: Final = UUID("6f2a1c1e-7b0d-5c39-9a40-3f0f6b1d2c55")


class OrderLine(BaseModel):
    """One product of an order."""

    product_id: int
    quantity: int
    unit_price: Decimal
    discount: Decimal


class OrderPlaced(Event):
    """A customer has ordered."""

    order_id: UUID
    customer_id: str
    placed_at: datetime
    lines: tuple[OrderLine, ...]


def placed_in(category: str) -> type[OrderPlaced]:
    """The same event in a category, and so a topic, of its own."""

    class BenchmarkOrderPlaced(OrderPlaced, category=category):
        pass

    return BenchmarkOrderPlaced


@cache
def orders(event_class: type[OrderPlaced] = OrderPlaced) -> tuple[OrderPlaced, ...]:
    """The real orders of the example, or one made-up order of usual size where the example's data are not at hand."""
    if not (DATA / "orders.csv").exists():
        return (event_class.model_validate(_MADE_UP),)
    lines: defaultdict[str, list[dict[str, str]]] = defaultdict(list)
    for row in _rows("order_lines"):
        lines[row["order_id"]].append(row)
    return tuple(
        event_class(
            order_id=uuid5(ID_NAMESPACE, row["order_id"]),
            customer_id=row["customer_id"],
            placed_at=datetime.fromisoformat(row["order_date"]).replace(tzinfo=UTC),
            lines=tuple(OrderLine.model_validate(line) for line in lines[row["order_id"]]),
        )
        for row in _rows("orders")
    )


def encoded(events: tuple[OrderPlaced, ...]) -> list[str]:
    """The JSON that Headwater stores for them."""
    return [event.model_dump_json() for event in events]


def mean_bytes(events: tuple[OrderPlaced, ...]) -> int:
    """What one of them takes as JSON, on average."""
    return round(sum(len(text.encode()) for text in encoded(events)) / len(events))


def _rows(table: str) -> list[dict[str, str]]:
    with (DATA / f"{table}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


_MADE_UP: Final = {
    "order_id": "3b241101-e2bb-4255-8caf-4136c566a962",
    "customer_id": "VINET",
    "placed_at": "2026-07-04T00:00:00Z",
    "lines": [
        {"product_id": 11, "quantity": 12, "unit_price": "14.00", "discount": "0.05"},
        {"product_id": 42, "quantity": 10, "unit_price": "9.80", "discount": "0.00"},
    ],
}
