"""The demo as people and programs run it, and its checks on a real run that was tampered with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from orders import demo
from orders.checks import run_checks
from orders.collect import collect
from orders.evidence import TOPICS, KafkaTail, next_offsets, read_kafka
from orders.inventory import count_stock
from orders.northwind import load_orders, load_products
from orders.screen import Screen
from orders.stage import SERVICES, DemoFailed, ServiceProcess, Stage, open_clients, open_stage, run_services

from headwater import Service
from headwater.embedded import EmbeddedKafka
from headwater.kafka import AVRO_CONTENT, JSON_CONTENT, KafkaSettings, KafkaTopics, kind_of
from headwater.testing import MigratedDatabases, eventually
from tests.outbox_support import read_records

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
    assert len(report["checks"]) == 14
    summary = report["summary"]
    assert summary["orders"] == 40 == sum(summary[end] for end in ("confirmed", "out_of_stock", "declined", "unpaid"))
    assert summary["units_in_stock"] == summary["units_shipped"] + summary["units_left"]
    assert 0 < summary["paid_shown_ms_p50"] <= summary["paid_shown_ms_p99"]
    assert "kills" not in summary


def test_demo_with_chaos_kills_processes_and_all_checks_hold() -> None:
    done = subprocess.run(
        demo_command("--orders", "60", "--chaos", "--json"),
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
    assert report["summary"]["kills"] == sum(report["summary"]["kills_by_service"].values()) >= 3


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
    assert "already has the topics order, payment, reservation, shipment, stock, to_inventory" in second.stderr
    assert "unset HEADWATER_KAFKA" in second.stderr


async def test_service_that_ends_by_itself_fails_the_demo_with_its_last_words(tmp_path: Path) -> None:
    nowhere = Stage({"orders": "postgresql://nobody@127.0.0.1:1/nothing"}, "127.0.0.1:1")
    process = ServiceProcess("orders", nowhere, tmp_path, target="orders.nothing:service")
    await process.start()
    with pytest.raises(DemoFailed, match=r"(?s)ended with status 2.*there is no module 'orders.nothing'"):
        await process.ready()
    await process.stop()


async def test_orders_that_do_not_end_fail_the_demo_and_it_says_which(headwater_databases: MigratedDatabases) -> None:
    """Nobody runs the services."""
    with ExitStack() as databases:
        stage = Stage({name: databases.enter_context(headwater_databases.fresh()) for name in SERVICES}, "127.0.0.1:1")
        async with open_clients(stage) as clients:
            await count_stock(clients["inventory"].store, load_products())
            placed = load_orders(3)
            performance = demo.Performance(placed, clients, {}, EmptyTail(), deadline_seconds=1.0)
            with Screen(json_output=True).progress(3) as bars, pytest.raises(DemoFailed) as failure:
                await performance.run(bars)
    message = str(failure.value)
    assert "3 of 3 orders have not ended" in message
    assert all(str(order.order_id) in message for order in placed)
    assert "3 were placed, 0 confirmed and 0 cancelled" in message
    assert "0 of 80 events are in Kafka" in message


class EmptyTail(KafkaTail):
    """A Kafka in which nothing arrives."""

    def __init__(self) -> None:
        self.ends = {}

    async def count(self) -> int:
        return 0


# -- a real run, tampered with ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FinishedRun:
    """A run that is over: its servers are up, its services have ended."""

    stage: Stage
    clients: Mapping[str, Service]
    order_count: int

    async def failed_checks(self) -> set[str]:
        evidence = await collect(self.clients, self.stage.kafka, self.order_count)
        return {check.name for check in run_checks(evidence) if not check.ok}


@asynccontextmanager
async def finished_run(order_count: int, folder: Path, *, second: str | None = None) -> AsyncIterator[FinishedRun]:
    async with open_stage() as stage, open_clients(stage) as clients, AsyncExitStack() as stack:
        await count_stock(clients["inventory"].store, load_products())
        run = FinishedRun(stage, clients, order_count)
        if second is not None:
            (second_folder := folder / "second").mkdir()
            process = ServiceProcess(second, stage, second_folder)
            await process.start()
            stack.push_async_callback(process.stop)
        async with run_services(stage, folder) as processes, KafkaTail(stage.kafka) as tail:
            performance = demo.Performance(load_orders(order_count), clients, processes, tail)
            with Screen(json_output=True).progress(order_count) as bars:
                await performance.run(bars)
                await performance.settle(bars)
            assert await run.failed_checks() == set()
        yield run


async def test_tampering_with_a_real_run_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reservation deleted, rows of read models changed, a record sent again: each fails the checks that promise otherwise."""
    for name in SERVERS:
        monkeypatch.delenv(name, raising=False)
    async with finished_run(25, tmp_path) as run:
        assert await content_types(run.stage.kafka) == {topic: {JSON_CONTENT if topic == "shipment" else AVRO_CONTENT} for topic in TOPICS}
        assert await failed_while(run, reservation_deleted) >= {
            "stock adds up",
            "stock_level is right",
            "read models verify",
            "every event is in Kafka once",
        }
        assert await failed_while(run, refund_added) >= {"money adds up", "every event is in Kafka once"}
        assert await failed_while(run, saga_opened) == {"no saga is open"}
        assert await failed_while(run, revenue_changed) == {"revenue is right", "read models verify"}
        assert await failed_while(run, order_status_changed) == {"order_status is right", "read models verify"}
        assert await run.failed_checks() == set(), "all was put back"
        await send_again(run.stage.kafka)
        assert await run.failed_checks() == KAFKA_CHECKS
        await process_all(run, tmp_path)
        assert await run.failed_checks() == KAFKA_CHECKS, "what is delivered again reserves nothing"


@pytest.mark.parametrize("service", ["orders", "inventory"])
async def test_two_of_a_service_side_by_side_do_nothing_twice(service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They share the topics' partitions and meet at shelves and sagas; the checks inside tell."""
    for name in SERVERS:
        monkeypatch.delenv(name, raising=False)
    async with finished_run(150, tmp_path, second=service):
        pass


async def content_types(bootstrap: str) -> dict[str, set[bytes | None]]:
    """What each topic's values are; the shipping service says JSON."""
    partitions = await KafkaTopics(KafkaSettings.parse(bootstrap)).describe(TOPICS)
    found: dict[str, set[bytes | None]] = {topic: set() for topic in partitions}
    for partition, records in (await read_records(bootstrap, partitions)).items():
        found[partition.topic] |= {kind_of(record.headers)[1] for record in records}
    return found


async def process_all(run: FinishedRun, folder: Path) -> None:
    """Run the services again until the inventory has seen every record of its topic."""
    records = await read_kafka(run.stage.kafka)
    ends = {(record.topic, record.partition): record.offset + 1 for record in records if record.topic == "to_inventory"}

    async def is_processed() -> bool:
        reached = await next_offsets(run.clients["inventory"].database)
        return all(reached.get(partition, 0) >= end for partition, end in ends.items())

    assert not await is_processed()
    async with run_services(run.stage, folder):
        await eventually(is_processed, timeout=60)


Tampering = Callable[[FinishedRun], Any]


async def failed_while(run: FinishedRun, tampering: Tampering) -> set[str]:
    async with tampering(run):
        return await run.failed_checks()


@asynccontextmanager
async def reservation_deleted(run: FinishedRun) -> AsyncIterator[None]:
    async with run.clients["inventory"].database.connection() as connection:
        await connection.execute(
            "CREATE TEMP TABLE deleted AS SELECT * FROM headwater.events WHERE type = 'UnitsReserved' ORDER BY global_position LIMIT 1"
        )
        await connection.execute("DELETE FROM headwater.events WHERE event_id IN (SELECT event_id FROM deleted)")
        yield
        await connection.execute("INSERT INTO headwater.events SELECT * FROM deleted")


@asynccontextmanager
async def refund_added(run: FinishedRun) -> AsyncIterator[None]:
    """Money went back that should have stayed."""
    async with run.clients["payment"].database.connection() as connection:
        await connection.execute("CREATE TEMP TABLE kept AS SELECT * FROM headwater.events WHERE type = 'PaymentReceived' LIMIT 1")
        await connection.execute("UPDATE headwater.events SET type = 'PaymentRefunded' WHERE event_id IN (SELECT event_id FROM kept)")
        yield
        await connection.execute("UPDATE headwater.events SET type = 'PaymentReceived' WHERE event_id IN (SELECT event_id FROM kept)")


@asynccontextmanager
async def saga_opened(run: FinishedRun) -> AsyncIterator[None]:
    async with run.clients["orders"].database.connection() as connection:
        await connection.execute("CREATE TEMP TABLE closed AS SELECT * FROM headwater.sagas LIMIT 1")
        this = "(saga_type, saga_key) IN (SELECT saga_type, saga_key FROM closed)"
        await connection.execute(f"UPDATE headwater.sagas SET phase = 'running', status = 'running', ended_at = NULL WHERE {this}")
        yield
        await connection.execute(
            "UPDATE headwater.sagas AS sagas SET phase = closed.phase, status = closed.status, ended_at = closed.ended_at FROM closed "
            "WHERE sagas.saga_key = closed.saga_key"
        )


@asynccontextmanager
async def revenue_changed(run: FinishedRun) -> AsyncIterator[None]:
    async with run.clients["orders"].database.connection() as connection:
        await connection.execute("UPDATE projection_revenue.revenue SET amount = amount + 1")
        yield
        await connection.execute("UPDATE projection_revenue.revenue SET amount = amount - 1")


@asynccontextmanager
async def order_status_changed(run: FinishedRun) -> AsyncIterator[None]:
    async with run.clients["orders"].database.connection() as connection:
        await connection.execute("CREATE TEMP TABLE kept AS SELECT * FROM projection_order_status.states")
        await connection.execute("UPDATE projection_order_status.states SET state = jsonb_set(state, '{status}', '\"placed\"')")
        yield
        await connection.execute("DELETE FROM projection_order_status.states")
        await connection.execute("INSERT INTO projection_order_status.states SELECT * FROM kept")


async def send_again(kafka: str) -> None:
    """What a relay without a fence might do: send the command again that reserved a confirmed order's stock."""
    records = await read_kafka(kafka)
    confirmed = next(record.data["order_id"] for record in records if record.type == "OrderConfirmed")
    async with AIOKafkaConsumer("to_inventory", bootstrap_servers=kafka, auto_offset_reset="earliest") as consumer:
        async for record in consumer:
            if record.key.endswith(confirmed.encode()):
                break
    async with AIOKafkaProducer(bootstrap_servers=kafka) as producer:
        await producer.send_and_wait("to_inventory", record.value, key=record.key, headers=list(record.headers), partition=record.partition)


# -- processes ----------------------------------------------------------------------------------------------------------


def services_of(pid: int) -> list[int]:
    """The demo's four services, once all run."""
    found = [child for child in descendants(pid) if b"orders.worker" in Path(f"/proc/{child}/cmdline").read_bytes()]
    return found if len(found) == len(SERVICES) else []


def descendants(pid: int) -> list[int]:
    """The processes that this one started, and theirs; as long as its grandchildren have not been orphaned."""
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
    return [*children, *(grandchild for child in children for grandchild in descendants(child))]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
