"""The commands at work, as a user runs them."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import uuid
from collections.abc import Callable
from typing import Any

import asyncpg

from headwater.eventstore import PostgresEventStore
from headwater.messages import ANY, Event, NewEvent
from headwater.postgres import Database
from tests.acceptance.cli.conftest import Command
from tests.support import eventually


class OrderPlaced(Event):
    sku: str
    quantity: int


WaitForFact = Callable[[subprocess.Popen[str], str], dict[str, Any]]


async def place(dsn: str, *skus: str) -> None:
    async with Database(dsn) as database:
        for sku in skus:
            await PostgresEventStore(database).append(f"order-{uuid.uuid4()}", [OrderPlaced(sku=sku, quantity=2)], expected_version=0)


def test_help_teaches(headwater: Command) -> None:
    outcome = headwater.run("--help")
    assert outcome.returncode == 0
    for command in ("up", "demo", "migrate", "run", "replay", "bench"):
        assert command in outcome.stdout
    assert "Ctrl-C" in headwater.run("up", "--help").stdout


def test_migrate_checks_prints_applies_and_repeats(headwater: Command, empty_postgres_dsn: str) -> None:
    postgres = {"HEADWATER_POSTGRES": empty_postgres_dsn}
    assert headwater.run("migrate", "--check", **postgres).returncode == 1
    script = headwater.run("migrate", "--sql", **postgres)
    assert "CREATE TABLE headwater.events" in script.stdout
    applied = json.loads(headwater.run("migrate", "--json", **postgres).stdout)["applied"]
    assert applied[0] == "0001_expand_log"
    assert headwater.run("migrate", "--check", **postgres).returncode == 0
    assert "up to date" in headwater.run("migrate", **postgres).stdout
    assert headwater.run("migrate", "--sql", **postgres).stdout == ""


async def test_run_serves_until_told_to_stop_and_keeps_what_failed(
    headwater: Command, postgres_dsn: str, kafka_server: str, wait_for_fact: WaitForFact
) -> None:
    """A handler that raises costs its own message only; SIGTERM drains and ends with status 0."""
    # The topics are this test's own: the shared broker may hold orders of other tests.
    category = f"order{uuid.uuid4().hex[:8]}"
    source = (
        (headwater.folder / "shop.py").read_text().replace("class OrderPlaced(Event)", f'class OrderPlaced(Event, category="{category}")')
    )
    (headwater.folder / "shop.py").write_text(source.replace('Service("shop")', f'Service("shop-{category}")'))
    process = headwater.start("run", "shop:service", HEADWATER_POSTGRES=postgres_dsn, HEADWATER_KAFKA=kafka_server)
    await asyncio.to_thread(wait_for_fact, process, "service_running")
    async with Database(postgres_dsn) as database:
        store = PostgresEventStore(database)
        for sku in ("chai", "poison", "tofu"):
            event = NewEvent("OrderPlaced", json.dumps({"sku": sku, "quantity": 2}))
            await store.append(f"{category}-{sku}", [event], expected_version=ANY)

        async def all_handled() -> bool:
            async with database.connection() as connection:
                parked = await connection.fetch("SELECT * FROM headwater.parked_keys")
            return len(parked) == 1 and await store.stream_version("stock-chai") == 1 and await store.stream_version("stock-tofu") == 1

        await eventually(all_handled, 60)
        async with database.connection() as connection:
            parked = await connection.fetchrow("SELECT * FROM headwater.parked_keys")
        assert parked is not None
        assert "no such thing in stock" in str(dict(parked))
    process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait, 30) == 0


async def test_replay_rebuilds_and_says_so(headwater: Command, postgres_dsn: str) -> None:
    await place(postgres_dsn, "chai", "chai", "tofu")
    outcome = await asyncio.to_thread(headwater.run, "replay", "units_ordered", HEADWATER_POSTGRES=postgres_dsn)
    assert outcome.returncode == 0, outcome.stderr
    assert "units_ordered was rebuilt from 3 events" in outcome.stdout
    as_json = await asyncio.to_thread(
        headwater.run, "replay", "units_ordered", "--json", "--service", "shop:service", HEADWATER_POSTGRES=postgres_dsn
    )
    assert json.loads(as_json.stdout)["events"] == 3


def test_up_prints_one_line_once_both_are_ready_and_leaves_nothing(headwater: Command) -> None:
    process = headwater.start("up", "--json")
    assert process.stdout is not None
    addresses = json.loads(process.stdout.readline())
    assert set(addresses) == {"postgres", "kafka"}

    async def ask() -> int:
        connection = await asyncpg.connect(addresses["postgres"])
        try:
            return int(await connection.fetchval("SELECT 1"))
        finally:
            await connection.close()

    assert asyncio.run(ask()) == 1
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    assert process.stdout.read() == ""
