"""The demo as people and programs run it, and its checks on a real run that was tampered with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from orders import demo
from orders.checks import run_checks
from orders.collect import collect
from orders.evidence import KafkaTail
from orders.inventory import count_stock
from orders.northwind import load_orders, load_products
from orders.screen import Screen
from orders.stage import Stage, open_stage

ROOT = Path(__file__).parents[3]
TIMEOUT_SECONDS = 240
SERVERS = ("HEADWATER_POSTGRES", "HEADWATER_KAFKA")


def demo_command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from headwater.cli import main; main()", "demo", *arguments]


def own_servers() -> dict[str, str]:
    """The environment without configured servers: the demo starts its own."""
    return {name: value for name, value in os.environ.items() if name not in SERVERS}


def test_demo_prints_one_object_and_exits_0_when_all_checks_hold() -> None:
    done = subprocess.run(
        demo_command("--orders", "40", "--json"),
        env=own_servers(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    report = json.loads(done.stdout)
    assert report["ok"] is True
    assert [check for check in report["checks"] if not check["ok"]] == []
    assert len(report["checks"]) == 11
    assert report["summary"]["orders"] == 40 == report["summary"]["confirmed"] + report["summary"]["rejected"]
    assert report["summary"]["units_in_stock"] == report["summary"]["units_reserved"] + report["summary"]["units_left"]


def test_ctrl_c_ends_the_demo_and_all_it_started() -> None:
    process = subprocess.Popen(
        demo_command("--orders", "5000"),
        env=own_servers(),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "starting the services" in line:
            break
    family = descendants(process.pid)
    assert family, "the servers run by then"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert [pid for pid in family if is_running(pid)] == []


# -- a real run, tampered with ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FinishedRun:
    """A run that is over: its servers are up, its services have ended."""

    stage: Stage
    clients: demo.Clients
    order_count: int

    async def failed_checks(self) -> set[str]:
        evidence = await collect(self.clients.orders, self.clients.inventory, self.stage.kafka, self.order_count)
        return {check.name for check in run_checks(evidence) if not check.ok}


@asynccontextmanager
async def finished_run(order_count: int, folder: Path) -> AsyncIterator[FinishedRun]:
    async with open_stage() as stage, demo.open_clients(stage) as clients:
        await count_stock(clients.inventory.store, load_products())
        run = FinishedRun(stage, clients, order_count)
        async with demo.run_services(stage, folder) as processes, KafkaTail(stage.kafka) as tail:
            performance = demo.Performance(load_orders(order_count), clients, processes, tail)
            with Screen(json_output=True).progress(order_count) as bars:
                await performance.run(bars)
            assert await run.failed_checks() == set()
        yield run


async def test_tampering_with_a_real_run_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reservation deleted, rows of read models changed, a record sent again: each fails the checks that promise otherwise."""
    for name in SERVERS:
        monkeypatch.delenv(name, raising=False)
    async with finished_run(25, tmp_path) as run:
        assert await failed_while(run, reservation_deleted) >= {
            "stock adds up",
            "stock_level is right",
            "read models verify",
            "every event is in Kafka once",
        }
        assert await failed_while(run, customer_changed) == {"customer_orders is right", "read models verify"}
        assert await failed_while(run, order_status_changed) == {"order_status is right", "read models verify"}
        assert await run.failed_checks() == set(), "all was put back"
        await send_again(run.stage.kafka)
        assert await run.failed_checks() == {"every event is in Kafka once", "Kafka keeps the order of every stream"}


Tampering = Callable[[FinishedRun], Any]


async def failed_while(run: FinishedRun, tampering: Tampering) -> set[str]:
    async with tampering(run):
        return await run.failed_checks()


@asynccontextmanager
async def reservation_deleted(run: FinishedRun) -> AsyncIterator[None]:
    async with run.clients.inventory.database.connection() as connection:
        await connection.execute(
            "CREATE TEMP TABLE deleted AS SELECT * FROM headwater.events WHERE type = 'UnitsReserved' ORDER BY global_position LIMIT 1"
        )
        await connection.execute("DELETE FROM headwater.events WHERE event_id IN (SELECT event_id FROM deleted)")
        yield
        await connection.execute("INSERT INTO headwater.events SELECT * FROM deleted")


@asynccontextmanager
async def customer_changed(run: FinishedRun) -> AsyncIterator[None]:
    async with run.clients.orders.database.connection() as connection:
        await connection.execute("UPDATE projection_customer_orders.customer_orders SET units = units + 1")
        yield
        await connection.execute("UPDATE projection_customer_orders.customer_orders SET units = units - 1")


@asynccontextmanager
async def order_status_changed(run: FinishedRun) -> AsyncIterator[None]:
    async with run.clients.orders.database.connection() as connection:
        await connection.execute("CREATE TEMP TABLE kept AS SELECT * FROM projection_order_status.states")
        await connection.execute("UPDATE projection_order_status.states SET state = jsonb_set(state, '{status}', '\"placed\"')")
        yield
        await connection.execute("DELETE FROM projection_order_status.states")
        await connection.execute("INSERT INTO projection_order_status.states SELECT * FROM kept")


async def send_again(kafka: str) -> None:
    """What a relay without a fence might do: send a record that is in the topic already."""
    async with AIOKafkaConsumer(bootstrap_servers=kafka, auto_offset_reset="earliest") as consumer:
        partitions = [TopicPartition("order", number) for number in range(6)]
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        record = await consumer.getone()
    async with AIOKafkaProducer(bootstrap_servers=kafka) as producer:
        await producer.send_and_wait("order", record.value, key=record.key, headers=list(record.headers), partition=record.partition)


# -- processes ----------------------------------------------------------------------------------------------------------


def descendants(pid: int) -> list[int]:
    """The processes that this one started, and theirs; as long as its grandchildren have not been orphaned."""
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
    return [*children, *(grandchild for child in children for grandchild in descendants(child))]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
