"""`headwater run` with its options, as whoever deploys or develops uses it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import uuid
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from headwater.eventstore import PostgresEventStore
from headwater.messages import ANY, NewEvent
from headwater.postgres import Database
from tests.acceptance.cli.conftest import Command
from tests.support import eventually

WaitForFact = Callable[[subprocess.Popen[str], str], dict[str, Any]]


@pytest.fixture
def category(headwater: Command) -> str:
    """Topics of this test's own: the shared broker may hold orders of other tests."""
    category = f"order{uuid.uuid4().hex[:8]}"
    shop = headwater.folder / "shop.py"
    source = shop.read_text().replace("class OrderPlaced(Event)", f'class OrderPlaced(Event, category="{category}")')
    shop.write_text(source.replace('Service("shop")', f'Service("shop-{category}")'))
    return category


@pytest.fixture
def servers(headwater: Command, postgres_dsn: str, kafka_server: str) -> None:
    headwater.environment |= {"HEADWATER_POSTGRES": postgres_dsn, "HEADWATER_KAFKA": kafka_server}


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def place(dsn: str, category: str, sku: str) -> None:
    async with Database(dsn) as database:
        event = NewEvent("OrderPlaced", json.dumps({"sku": sku, "quantity": 2}))
        await PostgresEventStore(database).append(f"{category}-{sku}", [event], expected_version=ANY)


async def is_reserved(dsn: str, sku: str) -> bool:
    async with Database(dsn) as database:
        return await PostgresEventStore(database).stream_version(f"stock-{sku}") > 0


@pytest.mark.usefixtures("servers")
async def test_health_and_metrics_in_one_process(headwater: Command, category: str, postgres_dsn: str, wait_for_fact: WaitForFact) -> None:
    process = headwater.start("run", "shop:service", "--http", "127.0.0.1:0")
    address = (await asyncio.to_thread(wait_for_fact, process, "http_serving"))["address"]
    async with httpx.AsyncClient(base_url=f"http://{address}") as client:
        assert (await client.get("/livez")).json() == {"alive": True}

        async def is_ready() -> bool:
            answer = await client.get("/readyz")
            assert answer.json()["ready"] == (answer.status_code == 200), answer.text
            assert answer.json()["ready"] or answer.json()["wrong"]
            return answer.status_code == 200

        await eventually(is_ready, 60)
        await place(postgres_dsn, category, "chai")
        await place(postgres_dsn, category, "poison")

        async def are_measured() -> bool:
            lines = [line for line in (await client.get("/metrics")).text.splitlines() if not line.startswith("#")]
            found = defaultdict(lambda: -1.0, {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)})
            group = f'group="shop-{category}"'
            assert found[f"headwater_messages_handled_total{{{group}}}"] >= 1
            assert found[f'headwater_handler_retries_total{{{group},handler="reserve"}}'] >= 1
            assert found['headwater_projection_lag_events{projection="units_ordered"}'] == 0
            lags = [value for name, value in found.items() if name.startswith("headwater_relay_lag_events{")]
            assert lags
            assert not any(lags)
            assert found["headwater_relay_shards"] >= 1
            # The horizon is a position, and an append that was rolled back has drawn one, too.
            assert found["headwater_relay_events_total"] == 3 <= found["headwater_log_horizon"]
            return True

        await eventually(are_measured, 30)
        assert (await client.get("/metrics")).headers["content-type"].startswith("text/plain")
    process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait, 30) == 0


@pytest.mark.usefixtures("servers", "category")
async def test_a_second_signal_ends_all_processes_at_once(headwater: Command, wait_for_fact: WaitForFact) -> None:
    shop = headwater.folder / "shop.py"
    shop.write_text(
        shop.read_text()
        .replace(
            "service = Service(",
            "import asyncio, pathlib\n\nservice = Service(",
        )
        .replace(
            '    if event.sku == "poison":',
            "    pathlib.Path('begun').touch()\n    await asyncio.sleep(25)\n    if event.sku == \"poison\":",
        )
    )
    process = headwater.start("run", "shop:service", "--workers", "1")
    pid = (await asyncio.to_thread(wait_for_fact, process, "service_worker_started"))["pid"]
    await asyncio.to_thread(wait_for_fact, process, "service_running")
    category = shop.read_text().partition('category="')[2].partition('"')[0]
    await place(headwater.environment["HEADWATER_POSTGRES"], category, "chai")
    await eventually((headwater.folder / "begun").exists, 60)
    process.send_signal(signal.SIGINT)
    await asyncio.to_thread(wait_for_fact, process, "service_stopping")
    assert is_running(pid)
    process.send_signal(signal.SIGINT)
    assert await asyncio.to_thread(process.wait, 10) == -signal.SIGINT
    await eventually(lambda: not is_running(pid), 10)


@pytest.mark.usefixtures("servers", "category")
async def test_processes_whose_parent_was_killed_end_by_themselves(headwater: Command, wait_for_fact: WaitForFact) -> None:
    process = headwater.start("run", "shop:service", "--workers", "1")
    pid = (await asyncio.to_thread(wait_for_fact, process, "service_worker_started"))["pid"]
    await asyncio.to_thread(wait_for_fact, process, "service_running")
    process.kill()
    await eventually(lambda: not is_running(pid), 30)


@pytest.mark.usefixtures("servers")
async def test_reload_runs_what_was_saved_and_waits_out_what_cannot_start(
    headwater: Command, category: str, postgres_dsn: str, wait_for_fact: WaitForFact
) -> None:
    shop = headwater.folder / "shop.py"
    source = shop.read_text()
    process = headwater.start("run", "shop:service", "--reload")
    await asyncio.to_thread(wait_for_fact, process, "service_running")
    shop.write_text("this is no Python")
    assert (await asyncio.to_thread(wait_for_fact, process, "files_changed"))["files"] == ["shop.py"]
    await asyncio.to_thread(wait_for_fact, process, "service_worker_waits")
    shop.write_text(source.replace('f"stock-{event.sku}"', 'f"stock-new-{event.sku}"'))
    await asyncio.to_thread(wait_for_fact, process, "service_running")
    await place(postgres_dsn, category, "chai")
    await eventually(lambda: is_reserved(postgres_dsn, "new-chai"), 60)
    process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait, 30) == 0


def test_a_wrong_target_is_told_once_before_anything_starts(headwater: Command) -> None:
    outcome = headwater.run("run", "shop:servce", "--workers", "2")
    assert outcome.returncode == 2
    assert outcome.stderr.count("did you mean shop:service?") == 1
    assert "service_worker_started" not in outcome.stderr
