"""A service in several processes, of which some are killed, paused, blocked or told to end: every effect once, in order per stream."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from headwater.eventstore import PostgresEventStore
from headwater.messages import ANY, NewEvent
from headwater.operations import PoolLimits, PoolReports, WorkerPool
from headwater.operations.process import WorkerProcess
from headwater.postgres import Database
from headwater.testing import eventually
from tests.support import full_count, write_evidence

KILLS = full_count(3, 40)
ORDERS_PER_KILL = 150
STREAMS = 12
PROCESSES = 2
COMMAND = (sys.executable, "-m", "headwater.cli", "run", "shop:service", "--as-worker")
LIMITS = PoolLimits(look_seconds=0.2, silence_seconds_max=2.0, restart_seconds_min=0.1, drain_seconds_max=20.0)
SHOP = """
import asyncio, pathlib, time
from headwater import Context, Event, Service

service = Service("{category}")

class OrderPlaced(Event, category="{category}"):
    number: int
    does: str = ""

@service.on(OrderPlaced)
async def reserve(event: OrderPlaced, context: Context) -> None:
    begun = pathlib.Path(event.does or "nothing")
    if event.does and not begun.exists():
        begun.touch()
        if event.does == "block":
            time.sleep(600)
        if event.does == "drain":
            await asyncio.sleep(1.5)
        while event.does == "stay":
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                pass
    await context.connection.execute(
        "INSERT INTO effects (stream, number) VALUES ($1, $2)", context.stream_name, event.number
    )
"""


class Shop:
    """Orders, and what was made of them."""

    def __init__(self, database: Database, category: str) -> None:
        self.database, self.category = database, category
        self.store = PostgresEventStore(database)
        self.chance = random.Random(category)
        self.placed: list[tuple[str, int]] = []

    async def place(self, count: int, *, does: str = "") -> None:
        for _ in range(count):
            number = len(self.placed) + 1
            stream = f"{self.category}-{self.chance.randrange(STREAMS)}"
            await self.store.append(stream, [NewEvent("OrderPlaced", json.dumps({"number": number, "does": does}))], expected_version=ANY)
            self.placed.append((stream, number))

    async def effects(self) -> list[tuple[str, int]]:
        async with self.database.connection() as connection:
            return [(row["stream"], row["number"]) for row in await connection.fetch("SELECT stream, number FROM effects ORDER BY id")]

    async def all_done(self, timeout: float = 90) -> None:
        async def done() -> bool:
            return len(await self.effects()) >= len(self.placed)

        await eventually(done, timeout)

    async def check(self) -> dict[str, int]:
        """Every effect once and in order per stream."""
        effects = await self.effects()
        assert sorted(effects) == sorted(self.placed)
        for stream in {name for name, _ in self.placed}:
            assert [number for name, number in effects if name == stream] == [number for name, number in self.placed if name == stream]
        return {"orders": len(self.placed), "missing": 0, "repeated": 0, "out_of_order": 0}


@pytest.fixture
async def shop(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    category = f"order{uuid4().hex[:8]}"
    (tmp_path / "shop.py").write_text(SHOP.format(category=category))
    monkeypatch.chdir(tmp_path)
    async with database.connection() as connection:
        await connection.execute("CREATE TABLE effects (id bigint GENERATED ALWAYS AS IDENTITY, stream text, number int)")
    return Shop(database, category)


@pytest.fixture
def environment(postgres_dsn: str, kafka_server: str) -> dict[str, str]:
    return dict(os.environ) | {"HEADWATER_POSTGRES": postgres_dsn, "HEADWATER_KAFKA": kafka_server, "HEADWATER_LOG_FORMAT": "json"}


class Running:
    """A pool at work."""

    def __init__(self, pool: WorkerPool) -> None:
        self.pool, self.stop = pool, asyncio.Event()
        self.task = asyncio.create_task(pool.run(self.stop))

    def process(self, number: int) -> WorkerProcess:
        found = self.pool.slots[number].process
        assert found is not None
        return found

    async def all_run(self) -> None:
        def run() -> bool:
            return all(slot.process is not None and slot.process.state == "running" for slot in self.pool.slots)

        await eventually(run, 60)

    async def replaced(self, number: int, pid: int) -> None:
        def is_another() -> bool:
            process = self.pool.slots[number].process
            return process is not None and process.pid != pid and process.state == "running"

        await eventually(is_another, 60)


@asynccontextmanager
async def running(
    shop: Shop, environment: dict[str, str], *, limits: PoolLimits = LIMITS, count: int = PROCESSES
) -> AsyncIterator[Running]:
    # With names of their own, members that come back need not wait until the group has given them up.
    at_work = Running(WorkerPool(COMMAND, count, environment=environment, instance_id=shop.category, limits=limits))
    try:
        await at_work.all_run()
        yield at_work
        at_work.stop.set()
        assert await asyncio.wait_for(at_work.task, 60) == 0
    finally:
        at_work.pool.kill()
        await asyncio.wait({at_work.task})


async def test_killed_processes_are_replaced_and_nothing_is_lost_or_repeated(shop: Shop, environment: dict[str, str]) -> None:
    with capture_logs() as facts:
        async with running(shop, environment) as at_work:
            for _ in range(KILLS):
                number = shop.chance.randrange(PROCESSES)
                pid = at_work.process(number).pid
                placing = asyncio.create_task(shop.place(ORDERS_PER_KILL))
                before = len(await shop.effects())

                async def is_moving(before: int = before) -> bool:
                    return len(await shop.effects()) > before

                await eventually(is_moving, 60)
                os.kill(pid, signal.SIGKILL)
                await placing
                await at_work.replaced(number, pid)
            await shop.all_done()
            assert sum(slot.restarts for slot in at_work.pool.slots) == KILLS
    told = [fact for fact in facts if fact["event"] == "service_worker_died"]
    assert [(fact["log_level"], fact["error"]) for fact in told] == [("error", "killed by SIGKILL")] * KILLS
    write_evidence("service_processes_killed", {"kills": KILLS, **await shop.check()})


async def test_a_paused_process_is_replaced(shop: Shop, environment: dict[str, str]) -> None:
    with capture_logs() as facts:
        async with running(shop, environment) as at_work:
            pid = at_work.process(0).pid
            os.kill(pid, signal.SIGSTOP)
            health = await PoolReports(at_work.pool, "shop").health()
            assert not health["ready"]
            assert health["wrong"]["worker 0"] in ("it does not answer", "it is being started again: killed by SIGKILL")
            await shop.place(100)
            await at_work.replaced(0, pid)
            await shop.all_done()
    assert [fact["log_level"] for fact in facts if fact["event"] == "service_worker_silent"] == ["error"]
    await shop.check()


async def test_a_handler_that_blocks_the_event_loop_costs_its_process_and_says_where(
    shop: Shop, environment: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    async with running(shop, environment, count=1) as at_work:
        await shop.place(20)
        await shop.place(1, does="block")
        await shop.place(20)
        await shop.all_done()
        assert sum(slot.restarts for slot in at_work.pool.slots) == 1
    errors = capfd.readouterr().err
    assert 'shop.py"' in errors
    assert "in reserve" in errors
    await shop.check()


async def test_draining_finishes_what_is_in_hand(shop: Shop, environment: dict[str, str], tmp_path: Path) -> None:
    async with running(shop, environment, count=1) as at_work:
        await shop.place(1, does="drain")
        await eventually((tmp_path / "drain").exists, 60)
        assert await shop.effects() == []
        at_work.stop.set()
        assert await asyncio.wait_for(at_work.task, 30) == 0
        assert await shop.effects() == shop.placed


async def test_what_does_not_end_in_time_is_cut_off_and_done_by_the_next(shop: Shop, environment: dict[str, str], tmp_path: Path) -> None:
    limits = PoolLimits(look_seconds=0.2, drain_seconds_max=1.0)
    with capture_logs() as facts:
        async with running(shop, environment, limits=limits, count=1) as at_work:
            await shop.place(1, does="stay")
            await eventually((tmp_path / "stay").exists, 60)
            at_work.stop.set()
            assert await asyncio.wait_for(at_work.task, 30) == 0
    assert [fact["log_level"] for fact in facts if fact["event"] == "service_worker_cut_off"] == ["error"]
    assert await shop.effects() == []
    async with running(shop, environment, count=1):
        await shop.all_done()
    await shop.check()


async def test_measurements_of_all_processes_are_served_together(shop: Shop, environment: dict[str, str]) -> None:
    async with running(shop, environment) as at_work:
        await shop.place(120)
        await shop.all_done()
        reports = PoolReports(at_work.pool, "shop")

        async def samples() -> dict[str, Any]:
            text = await reports.metrics()
            assert text is not None
            lines = [line for line in text.decode().splitlines() if not line.startswith("#")]
            return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

        async def all_are_counted() -> bool:
            found = await samples()
            handled = [value for name, value in found.items() if name.startswith("headwater_messages_handled_total{")]
            lags = [value for name, value in found.items() if name.startswith("headwater_consumer_lag_events{")]
            return sum(handled) == 120 and len(lags) == 6 and not any(lags)

        await eventually(all_are_counted, 30)
        found = await samples()
        assert sum(value for name, value in found.items() if name.startswith("headwater_relay_events_total{")) == 120
        assert [found[f'headwater_process_up{{process="{number}"}}'] for number in range(PROCESSES)] == [1.0, 1.0]
        assert sum(value for name, value in found.items() if name.startswith("headwater_relay_shards{")) >= 1


async def test_what_cannot_start_ends_the_pool_with_its_exit_status(
    shop: Shop, environment: dict[str, str], empty_postgres_dsn: str
) -> None:
    pool = WorkerPool(COMMAND, 2, environment=environment | {"HEADWATER_POSTGRES": empty_postgres_dsn}, limits=LIMITS)
    assert await asyncio.wait_for(pool.run(asyncio.Event()), 60) == 1
