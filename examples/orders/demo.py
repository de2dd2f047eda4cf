"""`headwater demo`: real orders, two services as processes of their own, and every promise checked at the end."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from headwater import NO_STREAM, Service
from headwater.config import redact
from headwater.errors import UsageError
from headwater.telemetry import configure_logging
from orders import inventory, orders
from orders.checks import run_checks, summarize
from orders.collect import collect
from orders.events import OrderPlaced
from orders.evidence import KafkaTail, count_events, unanswered_orders
from orders.northwind import load_orders, load_products
from orders.screen import Counts, LiveCounts, Report, Screen
from orders.stage import DemoFailed, ServiceProcess, Stage, client_of, open_stage

PLACERS: Final = 16
"""Customers who place orders at the same time."""
POLL_INTERVAL_SECONDS: Final = 0.2
DEADLINE_SECONDS: Final = 90.0
DEADLINE_SECONDS_PER_ORDER: Final = 0.1
"""What a slow machine may take."""
SETTLE_TIMEOUT_SECONDS: Final = 30.0
"""After the last answer: for the relays to bring the ends of the logs to Kafka."""


def run(*, order_count: int, json_output: bool) -> int:
    """Run the demo; returns the exit status, 0 only if every check holds."""
    screen = Screen(json_output=json_output)
    configure_logging(log_level="warning")  # The facts of this process would run through its progress bars.
    folder = Path(tempfile.mkdtemp(prefix="headwater-demo-"))
    try:
        report = asyncio.run(play(order_count, screen, folder))
    except (KeyboardInterrupt, UsageError):
        shutil.rmtree(folder)
        raise
    except Exception:
        screen.say(f"the services' logs are in {folder}")
        raise
    screen.show(report)
    if not report.ok:
        screen.say(f"the services' logs are in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


async def play(order_count: int, screen: Screen, folder: Path) -> Report:
    """Place the orders, see them answered, and judge what is left behind."""
    screen.say("starting PostgreSQL and Kafka")
    async with open_stage() as stage, open_clients(stage) as clients:
        screen.say(f"new databases {redact(stage.orders_dsn)} and {redact(stage.inventory_dsn)}, Kafka at {stage.kafka}")
        await inventory.count_stock(clients.inventory.store, load_products())
        screen.say("starting the services orders and inventory: a process and a database each, Kafka between them")
        async with run_services(stage, folder) as processes, KafkaTail(stage.kafka) as tail:
            performance = Performance(load_orders(order_count), clients, processes, tail)
            with screen.progress(order_count) as bars:
                seconds = await performance.run(bars)
            screen.say("rebuilding order_status from the log, while the old one serves")
            await clients.orders.replay(orders.OrderStatus.projection_name)
            screen.say("checking both logs, every Kafka record and every read model")
            evidence = await collect(clients.orders, clients.inventory, stage.kafka, order_count)
    return Report(summarize(evidence), run_checks(evidence), seconds)


@dataclass(frozen=True, slots=True)
class Clients:
    """Both services as the demo's process sees them: their logs and read models."""

    orders: Service
    inventory: Service


@asynccontextmanager
async def open_clients(stage: Stage) -> AsyncIterator[Clients]:
    """Connect to both, without running their workers here."""
    clients = Clients(
        orders=client_of(orders.service, stage.orders_dsn, stage.kafka),
        inventory=client_of(inventory.service, stage.inventory_dsn, stage.kafka),
    )
    async with clients.orders.connect(), clients.inventory.connect():
        yield clients


@asynccontextmanager
async def run_services(stage: Stage, folder: Path) -> AsyncIterator[list[ServiceProcess]]:
    """Run both services, each in its own process, as long as the block."""
    processes: list[ServiceProcess] = []
    try:
        for target, dsn in (("orders.orders:service", stage.orders_dsn), ("orders.inventory:service", stage.inventory_dsn)):
            processes.append(await ServiceProcess.start(target, dsn=dsn, kafka=stage.kafka, folder=folder))
        await asyncio.gather(*(process.ready() for process in processes))
        yield processes
    finally:
        await asyncio.gather(*(process.stop() for process in processes))


class Performance:
    """One run of the orders, from the first placed to the last answered, with an eye on everything."""

    def __init__(
        self,
        to_place: Sequence[OrderPlaced],
        clients: Clients,
        processes: Sequence[ServiceProcess],
        tail: KafkaTail,
        *,
        deadline_seconds: float | None = None,
    ) -> None:
        self._to_place, self._clients, self._processes, self._tail = to_place, clients, processes, tail
        self._deadline_seconds = deadline_seconds or DEADLINE_SECONDS + DEADLINE_SECONDS_PER_ORDER * len(to_place)

    async def run(self, bars: LiveCounts) -> float:
        """Return the seconds it took once every order is answered and both logs are in Kafka.

        Raises:
            DemoFailed: a service ended, or some orders stayed without an answer.
        """
        started = time.monotonic()
        placing = asyncio.create_task(self._place_all())
        try:
            while (counts := await self._look(bars)).answered < len(self._to_place):
                if placing.done():
                    placing.result()
                if time.monotonic() - started > self._deadline_seconds:
                    raise DemoFailed(await self._what_is_missing(counts))
                await asyncio.sleep(POLL_INTERVAL_SECONDS)
        finally:
            placing.cancel()
        seconds = time.monotonic() - started
        await self._settle(bars)
        return seconds

    async def _place_all(self) -> None:
        waiting = iter(self._to_place)

        async def place() -> None:
            for order in waiting:
                await self._clients.orders.store.append(orders.stream_of(order.order_id), [order], expected_version=NO_STREAM)

        await asyncio.gather(*(place() for _ in range(PLACERS)))

    async def _settle(self, bars: LiveCounts) -> None:
        """Wait for the relays; if they never get there, the checks say which events are missing."""
        until = time.monotonic() + SETTLE_TIMEOUT_SECONDS
        while time.monotonic() < until:
            counts = await self._look(bars)
            if counts.in_kafka >= counts.logged:
                return
            await asyncio.sleep(POLL_INTERVAL_SECONDS)

    async def _look(self, bars: LiveCounts) -> Counts:
        for process in self._processes:
            process.require_running()
        ordered = await count_events(self._clients.orders.database)
        stocked = await count_events(self._clients.inventory.database)
        counts = Counts(
            placed=ordered["OrderPlaced"],
            confirmed=ordered["OrderConfirmed"],
            rejected=ordered["OrderRejected"],
            logged=ordered.total() + stocked.total(),
            in_kafka=await self._tail.count(),
        )
        bars.update(counts)
        return counts

    async def _what_is_missing(self, counts: Counts) -> str:
        missing = await unanswered_orders(self._clients.orders.database)
        asked = await count_events(self._clients.inventory.database)
        left = len(self._to_place) - counts.answered
        lines = [
            f"after {self._deadline_seconds:.0f} s, {left:,} of {len(self._to_place):,} orders have no answer: {', '.join(missing)} …",
            f"{counts.placed:,} were placed; the inventory answered {asked['StockReserved'] + asked['ReservationRejected']:,}",
            f"{counts.in_kafka:,} of {counts.logged:,} events are in Kafka",
            *(process.last_words() for process in self._processes),
        ]
        return "\n".join(lines)
