"""The order case with no broker: the same four services, unchanged, share one log and are fed by it; every check that is not about Kafka holds."""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import timedelta

import pytest
from orders import collect, fulfilment, inventory, orders, payment, shipping
from orders.checks import Check, run_checks, summarize
from orders.evidence import KafkaRecord
from orders.fulfilment import stream_of
from orders.inventory import count_stock
from orders.northwind import load_orders, load_products

from headwater.messages import NO_STREAM
from headwater.testing import eventually

ORDERS = 60
SERVICES = {service.name: service for service in (orders.service, inventory.service, payment.service, shipping.service)}


async def no_kafka(bootstrap: str) -> tuple[KafkaRecord, ...]:
    return ()


async def test_the_order_case_runs_from_the_log(postgres_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fulfilment, "PAYMENT_WITHIN", timedelta(seconds=1))
    monkeypatch.setattr(collect, "read_kafka", no_kafka)
    for name, value in {"POSTGRES": postgres_dsn, "KAFKA": "127.0.0.1:1", "SOURCE": "postgres"}.items():
        monkeypatch.setenv(f"HEADWATER_{name}", value)
    async with AsyncExitStack() as stack:
        for service in SERVICES.values():
            await stack.enter_async_context(service)
        await count_stock(inventory.service.store, load_products())
        for order in load_orders(ORDERS):
            await orders.service.store.append(stream_of(order.order_id), [order], expected_version=NO_STREAM)

        async def checks() -> list[Check]:
            evidence = await collect.collect(SERVICES, "", ORDERS)
            found = [check for check in run_checks(evidence) if "Kafka" not in check.name]
            assert [f"{check.name}: {check.detail}" for check in found if not check.ok] == []
            # Nothing is on its way any more that would change that: money that comes late was given back.
            summary = summarize(evidence)
            assert summary.orders == summary.confirmed + summary.out_of_stock + summary.declined + summary.unpaid == ORDERS
            return found

        assert len(await eventually(checks, 60)) == 12
