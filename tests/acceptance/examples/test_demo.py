"""The demo as people and programs run it, and its checks on a real run that was tampered with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from orders import demo
from orders.checks import run_checks
from orders.collect import collect
from orders.evidence import KafkaTail, read_kafka
from orders.inventory import count_stock
from orders.northwind import load_orders, load_products
from orders.screen import Screen
from orders.stage import DemoFailed, ServiceProcess, Stage, open_stage

from headwater.embedded import EmbeddedKafka
from headwater.testing import MigratedDatabases, eventually

ROOT = Path(__file__).parents[3]
TIMEOUT_SECONDS = 240
KAFKA_CHECKS = {"every event is in Kafka once", "Kafka keeps the order of every stream"}
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


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "killed"])
async def test_demo_takes_everything_it_started_with_it(end: signal.Signals, tmp_path: Path) -> None:
    process = subprocess.Popen(
        demo_command("--orders", "5000"),
        env={**own_servers(), "TMPDIR": str(tmp_path)},  # whoever is killed leaves the folder of its logs behind
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    assert any("starting the services" in line for line in process.stderr), "it ended too early"
    family = await eventually(lambda: services_of(process.pid), timeout=60)
    family += descendants(process.pid)
    process.send_signal(end)
    process.communicate(timeout=60)
    assert process.returncode == (130 if end == signal.SIGINT else -signal.SIGKILL)
    await eventually(lambda: [pid for pid in family if is_running(pid)] == [], timeout=30)


def test_demo_uses_configured_servers_and_refuses_a_broker_that_has_its_topics(postgres_server: str) -> None:
    """Orders of an earlier run, still in the topics, would be taken for this run's."""
    with EmbeddedKafka() as kafka:
        environment = {**own_servers(), "HEADWATER_KAFKA": kafka.bootstrap, "HEADWATER_POSTGRES": postgres_server}
        first, second = (
            subprocess.run(
                demo_command("--orders", "5", "--json"),
                env=environment,
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_SECONDS,
                check=False,
            )
            for _ in range(2)
        )
    assert first.returncode == 0, first.stderr + first.stdout
    assert json.loads(first.stdout)["summary"]["orders"] == 5
    assert second.returncode == 2
    assert "already has the topics order, reservation, stock" in second.stderr
    assert "unset HEADWATER_KAFKA" in second.stderr


async def test_service_that_ends_by_itself_fails_the_demo_with_its_last_words(tmp_path: Path) -> None:
    process = await ServiceProcess.start(
        "orders.nothing:service", dsn="postgresql://nobody@127.0.0.1:1/nothing", kafka="127.0.0.1:1", folder=tmp_path
    )
    with pytest.raises(DemoFailed, match=r"(?s)ended with status 2.*there is no module 'orders.nothing'"):
        await process.ready()
    await process.stop()


async def test_orders_without_an_answer_fail_the_demo_and_it_says_which(headwater_databases: MigratedDatabases) -> None:
    """Nobody runs the services."""
    with headwater_databases.fresh() as orders_dsn, headwater_databases.fresh() as inventory_dsn:
        async with demo.open_clients(Stage(orders_dsn, inventory_dsn, "127.0.0.1:1")) as clients:
            await count_stock(clients.inventory.store, load_products())
            placed = load_orders(3)
            performance = demo.Performance(placed, clients, [], EmptyTail(), deadline_seconds=1.0)
            with Screen(json_output=True).progress(3) as bars, pytest.raises(DemoFailed) as failure:
                await performance.run(bars)
    message = str(failure.value)
    assert "3 of 3 orders have no answer" in message
    assert all(str(order.order_id) in message for order in placed)
    assert "3 were placed; the inventory answered 0" in message
    assert "0 of 80 events are in Kafka" in message


class EmptyTail(KafkaTail):
    """A Kafka in which nothing arrives."""

    def __init__(self) -> None:
        pass

    async def count(self) -> int:
        return 0


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
async def finished_run(order_count: int, folder: Path, *, second_inventory: bool = False) -> AsyncIterator[FinishedRun]:
    async with open_stage() as stage, demo.open_clients(stage) as clients, AsyncExitStack() as stack:
        await count_stock(clients.inventory.store, load_products())
        run = FinishedRun(stage, clients, order_count)
        if second_inventory:
            (second_folder := folder / "second").mkdir()
            second = await ServiceProcess.start(
                "orders.inventory:service", dsn=stage.inventory_dsn, kafka=stage.kafka, folder=second_folder
            )
            stack.push_async_callback(second.stop)
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
        assert await run.failed_checks() == KAFKA_CHECKS
        await process_all(run, tmp_path)
        assert await run.failed_checks() == KAFKA_CHECKS, "what is delivered again reserves nothing"


async def test_two_inventories_side_by_side_reserve_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They share the topic's partitions and meet at the shelves; the checks inside tell."""
    for name in SERVERS:
        monkeypatch.delenv(name, raising=False)
    async with finished_run(150, tmp_path, second_inventory=True):
        pass


async def process_all(run: FinishedRun, folder: Path) -> None:
    """Run the services again until the inventory has seen every record of its topic."""
    records = await read_kafka(run.stage.kafka)
    ends = {record.partition: record.offset + 1 for record in records if record.topic == "order"}

    async def is_processed() -> bool:
        async with run.clients.inventory.database.connection() as connection:
            rows = await connection.fetch("SELECT partition, next_offset FROM headwater.consumer_positions WHERE topic = 'order'")
        reached = {row["partition"]: row["next_offset"] for row in rows}
        return all(reached.get(partition, 0) >= end for partition, end in ends.items())

    assert not await is_processed()
    async with demo.run_services(run.stage, folder):
        await eventually(is_processed, timeout=60)


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
    """What a relay without a fence might do: send a confirmed order's record again."""
    records = await read_kafka(kafka)
    confirmed = next(record.data["order_id"] for record in records if record.type == "OrderConfirmed")
    async with AIOKafkaConsumer("order", bootstrap_servers=kafka, auto_offset_reset="earliest") as consumer:
        async for record in consumer:
            if record.key == f"order-{confirmed}".encode():
                break
    async with AIOKafkaProducer(bootstrap_servers=kafka) as producer:
        await producer.send_and_wait("order", record.value, key=record.key, headers=list(record.headers), partition=record.partition)


# -- processes ----------------------------------------------------------------------------------------------------------


def services_of(pid: int) -> list[int]:
    """The demo's two services, once both run."""
    found = [child for child in descendants(pid) if b"orders.worker" in Path(f"/proc/{child}/cmdline").read_bytes()]
    return found if len(found) == 2 else []


def descendants(pid: int) -> list[int]:
    """The processes that this one started, and theirs; as long as its grandchildren have not been orphaned."""
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
    return [*children, *(grandchild for child in children for grandchild in descendants(child))]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
