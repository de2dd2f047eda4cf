"""Real orders and real stock, from the tables in `data/`."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Final
from uuid import UUID, uuid5

from orders.events import OrderLine, OrderPlaced

DATA: Final = Path(__file__).parent / "data"
ORDER_IDS: Final = UUID("6f1d3a52-8f43-5d8e-9a3e-0d6c3b2c7a11")
"""Namespace of the order ids, so that every run gives an order the same id."""


@dataclass(frozen=True, slots=True)
class Product:
    """A product as the catalogue has it."""

    product_id: int
    name: str
    units_in_stock: int


def load_products() -> list[Product]:
    """The catalogue, with the stock before the first order."""
    return [Product(int(row["product_id"]), row["product_name"], int(row["units_in_stock"])) for row in _rows("products")]


def load_orders(count: int) -> list[OrderPlaced]:
    """So many orders in the order they came in; after the last real one they come again, with new ids."""
    lines: dict[str, list[OrderLine]] = defaultdict(list)
    for row in _rows("order_lines"):
        lines[row["order_id"]].append(_line(row))
    real = list(_rows("orders"))
    return [_order(real[i % len(real)], lines, repetition=i // len(real)) for i in range(count)]


def _order(row: dict[str, str], lines: dict[str, list[OrderLine]], *, repetition: int) -> OrderPlaced:
    return OrderPlaced(
        order_id=uuid5(ORDER_IDS, f"{row['order_id']}/{repetition}"),
        order_number=int(row["order_id"]),
        customer_id=row["customer_id"],
        ordered_at=datetime.fromisoformat(row["order_date"]).replace(tzinfo=UTC),
        ship_country=row["ship_country"],
        lines=tuple(lines[row["order_id"]]),
    )


def _line(row: dict[str, str]) -> OrderLine:
    return OrderLine(
        product_id=int(row["product_id"]),
        quantity=int(row["quantity"]),
        unit_price=Decimal(row["unit_price"]),
        discount=Decimal(row["discount"]),
    )


def _rows(table: str) -> Iterator[dict[str, str]]:
    with (DATA / f"{table}.csv").open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)
