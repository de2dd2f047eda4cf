"""Whichever process dies at whichever step of an order, the order ends right, and everything adds up."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from random import Random
from uuid import UUID, uuid5

import pytest
from orders import demo
from orders.checks import run_checks
from orders.collect import collect
from orders.customers import Behaviour, behaviour_of
from orders.events import OrderLine, OrderPlaced
from orders.evidence import KafkaTail
from orders.fulfilment import stream_of
from orders.inventory import count_stock
from orders.northwind import load_products
from orders.screen import Screen
from orders.stage import SERVICES, ServiceProcess, open_clients, open_stage, run_services

from headwater import NO_STREAM, Service
from tests.support import SeededRuns, eventually

NAMESPACE = UUID("8c9b2a52-0f5e-5a7a-9c55-5f0d3c8a2b10")
PAYMENT_SECONDS = 4.0
KILLED_WITHIN_SECONDS = 0.03
"""After the step was seen in the log: the next one may have begun, be under way, or be done."""
LOOK_INTERVAL_SECONDS = 0.001
TIMEOUT_SECONDS = 90.0
UNITS_TOO_MANY = 1_000

TO_PAYMENT = ("OrderPlaced", "ReserveStock", "StockReserved", "RequestPayment", "PaymentRequested")
UNDOING = ("ReleaseStock", "StockReleased", "OrderCancelled")
STORIES: dict[str, tuple[str, ...]] = {
    Behaviour.PAYS: (*TO_PAYMENT, "Pay", "PaymentReceived", "OrderPaid", "ShipmentSent", "OrderConfirmed"),
    Behaviour.IS_DECLINED: (*TO_PAYMENT, "Decline", "PaymentDeclined", *UNDOING),
    Behaviour.NEVER_PAYS: (*TO_PAYMENT, "CancelPayment", "PaymentCancelled", *UNDOING),
    Behaviour.PAYS_LATE: (*TO_PAYMENT, "CancelPayment", "PaymentCancelled", "Pay", "PaymentRefunded", *UNDOING),
    "wants too much": ("OrderPlaced", "ReserveStock", "ReservationRejected", "OrderCancelled"),
}
"""The steps of each story, as its messages stand in the logs."""
ENDS: dict[str, set[str | None]] = {
    # A process that is away too long costs the customer's order: the money goes back.
    Behaviour.PAYS: {None, "not paid in time"},
    Behaviour.IS_DECLINED: {"payment declined", "not paid in time"},
    Behaviour.NEVER_PAYS: {"not paid in time"},
    Behaviour.PAYS_LATE: {"not paid in time"},
    "wants too much": {"no stock"},
}
"""Why each may end; None where it is confirmed."""


@dataclass(frozen=True)
class Case:
    """One death."""

    story: str
    step: str
    victim: str


CASES = [Case(story, step, victim) for story, steps in STORIES.items() for step in steps for victim in SERVICES]
Random(4).shuffle(CASES)


async def test_order_ends_right_whoever_is_killed_at_whichever_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HEADWATER_POSTGRES", "HEADWATER_KAFKA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ORDERS_PAYMENT_SECONDS", str(PAYMENT_SECONDS))
    runs = SeededRuns("orders_killed_at_each_step", default=4, full=len(CASES))
    placed: list[OrderPlaced] = []
    async with open_stage() as stage, open_clients(stage) as clients:
        await count_stock(clients["inventory"].store, load_products())
        async with run_services(stage, tmp_path) as processes, KafkaTail(stage.kafka) as tail:
            for seed in runs:
                case = CASES[seed - 1]
                placed.append(order_of(case, seed))
                await clients["orders"].store.append(stream_of(placed[-1].order_id), [placed[-1]], expected_version=NO_STREAM)
                cause = await die_at(case, str(placed[-1].order_id), Random(seed), clients, processes)
                assert cause in ENDS[case.story], f"{case}: {cause}"
                runs.record(seed, {"story": case.story, "step": case.step, "victim": case.victim, "end": cause or "confirmed"})
            with Screen(json_output=True).progress(len(placed)) as bars:
                await demo.Performance(placed, clients, processes, tail).settle(bars)
        evidence = await collect(clients, stage.kafka, len(placed))
    assert [check for check in run_checks(evidence) if not check.ok] == []


async def die_at(
    case: Case, order_id: str, random: Random, clients: Mapping[str, Service], processes: Mapping[str, ServiceProcess]
) -> str | None:
    """Kill the victim when the step is in a log, start it again, and return why the order ended, None when it is confirmed."""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while not await has_happened(case.step, order_id, clients):
            await asyncio.sleep(LOOK_INTERVAL_SECONDS)
    await asyncio.sleep(random.uniform(0.0, KILLED_WITHIN_SECONDS))
    victim = processes[case.victim]
    await victim.kill()
    await victim.start()
    await victim.ready()
    await eventually(lambda: has_ended(order_id, clients["orders"]), timeout=TIMEOUT_SECONDS)
    async with clients["orders"].database.connection() as connection:
        cause: str | None = await connection.fetchval(
            "SELECT data ->> 'cause' FROM headwater.log WHERE stream_name = $1 ORDER BY version DESC LIMIT 1", f"order-{order_id}"
        )
    return cause


async def has_happened(step: str, order_id: str, clients: Mapping[str, Service]) -> bool:
    """Whether the message stands in one of the logs."""
    return any([await is_in_log(client, [step], order_id) for client in clients.values()])


async def has_ended(order_id: str, orders: Service) -> bool:
    return await is_in_log(orders, ["OrderConfirmed", "OrderCancelled"], order_id)


async def is_in_log(client: Service, types: list[str], order_id: str) -> bool:
    async with client.database.connection() as connection:
        found: bool = await connection.fetchval(
            "SELECT EXISTS (SELECT FROM headwater.events WHERE type = ANY ($1) AND data ->> 'order_id' = $2)", types, order_id
        )
    return found


def order_of(case: Case, seed: int) -> OrderPlaced:
    """An order whose customer behaves as the story wants."""
    quantity = UNITS_TOO_MANY if case.story == "wants too much" else 1
    candidates = (uuid5(NAMESPACE, f"{seed}/{attempt}") for attempt in range(10_000))
    order_id = next(c for c in candidates if case.story in (behaviour_of(c), "wants too much"))
    product_id = next(product.product_id for product in load_products() if product.units_in_stock > 100)
    line = OrderLine(product_id=product_id, quantity=quantity, unit_price=Decimal("9.80"))
    return OrderPlaced(
        order_id=order_id,
        order_number=seed,
        customer_id="ALFKI",
        ordered_at=datetime(1996, 7, 4, tzinfo=UTC),
        ship_country="Germany",
        lines=(line,),
    )
