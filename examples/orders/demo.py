"""`headwater demo`: real orders, four services as processes of their own, and every promise checked at the end."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from headwater import NO_STREAM, Service
from headwater.errors import UsageError
from headwater.telemetry import configure_logging
from orders.chaos import kill_processes
from orders.checks import run_checks, summarize
from orders.collect import collect
from orders.events import OrderPlaced
from orders.evidence import KafkaTail, count_events, next_offsets, open_orders
from orders.fulfilment import stream_of
from orders.inventory import count_stock
from orders.latency import delays_seconds, watch_paid
from orders.northwind import load_orders, load_products
from orders.orders import OrderStatus
from orders.screen import Counts, LiveCounts, Report, Screen
from orders.stage import DemoFailed, ServiceProcess, Stage, open_clients, open_stage, run_services

PLACERS: Final = 16
"""Customers who place orders at the same time."""
PLACING_INTERVAL_SECONDS: Final = 0.01
CHAOS_ORDERS_PER_SECOND: Final = 40.0
"""With chaos orders come slowly enough that 2 000 of them see 15 processes die."""
CHAOS_SECONDS_MIN: Final = 10.0
OPEN_ORDERS_MAX: Final = 80
"""Nobody orders while so many wait: else the last ones of thousands would wait in a queue for longer than they have to pay."""
POLL_INTERVAL_SECONDS: Final = 0.1
DEADLINE_SECONDS: Final = 120.0
DEADLINE_SECONDS_PER_ORDER: Final = 0.15
"""What a slow machine may take."""
SETTLE_TIMEOUT_SECONDS: Final = 60.0
"""After the last order ended: for the relays to bring the ends of the logs to Kafka, and for what is on the way to arrive."""


def run(*, order_count: int, json_output: bool, chaos: bool = False) -> int:
    """Run the demo; returns the exit status, 0 only if every check holds."""
    screen = Screen(json_output=json_output)
    configure_logging(log_level="warning")  # The facts of this process would run through its progress bars.
    folder = Path(tempfile.mkdtemp(prefix="headwater-demo-"))
    try:
        report = asyncio.run(play(order_count, screen, folder, chaos=chaos))
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


async def play(order_count: int, screen: Screen, folder: Path, *, chaos: bool) -> Report:
    """Place the orders, see each to its end, and judge what is left behind."""
    screen.say("starting PostgreSQL and Kafka")
    async with open_stage() as stage, open_clients(stage) as clients:
        screen.say(f"starting the services {', '.join(clients)}: a process and a database each, Kafka at {stage.kafka} between them")
        outcome = await perform(load_orders(order_count), stage, clients, screen, folder, chaos=chaos)
        screen.say("rebuilding order_status from the log, while the old one serves")
        await clients["orders"].replay(OrderStatus.projection_name)
        screen.say("checking every log, every Kafka record, every read model and every saga")
        evidence = await collect(clients, stage.kafka, order_count)
    return Report(
        summary=summarize(evidence),
        checks=run_checks(evidence),
        seconds=outcome.seconds,
        kills=outcome.kills if chaos else None,
        paid_delays_seconds=delays_seconds(evidence.logs["payment"], outcome.seen_paid),
    )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What only somebody who was there can tell."""

    seconds: float
    kills: Counter[str]
    seen_paid: Mapping[str, datetime]
    """When each order's status showed its payment."""


async def perform(
    to_place: Sequence[OrderPlaced], stage: Stage, clients: Mapping[str, Service], screen: Screen, folder: Path, *, chaos: bool
) -> Outcome:
    """Run the services from the first order placed until nothing moves any more."""
    await count_stock(clients["inventory"].store, load_products())
    async with run_services(stage, folder) as processes, KafkaTail(stage.kafka) as tail, watch_paid(clients["orders"]) as seen_paid:
        performance = Performance(to_place, clients, processes, tail, spread_seconds=spread_seconds(len(to_place)) if chaos else 0.0)
        with screen.progress(len(to_place)) as bars:
            async with AsyncExitStack() as stack:
                kills = await stack.enter_async_context(kill_processes(processes)) if chaos else Counter[str]()
                bars.kills = kills
                seconds = await performance.run(bars)
            await performance.settle(bars)
    return Outcome(seconds, kills, seen_paid)


def spread_seconds(order_count: int) -> float:
    """How long the placing takes when processes are to die meanwhile."""
    return max(CHAOS_SECONDS_MIN, order_count / CHAOS_ORDERS_PER_SECOND)


class Performance:
    """One run of the orders, from the first placed to the last that ended, with an eye on everything."""

    def __init__(
        self,
        to_place: Sequence[OrderPlaced],
        clients: Mapping[str, Service],
        processes: Mapping[str, ServiceProcess],
        tail: KafkaTail,
        *,
        spread_seconds: float = 0.0,
        deadline_seconds: float | None = None,
    ) -> None:
        self._to_place, self._clients, self._processes, self._tail = to_place, clients, processes, tail
        self._interval_seconds = spread_seconds / len(to_place)
        self._open_orders = 0
        self._deadline_seconds = deadline_seconds or DEADLINE_SECONDS + DEADLINE_SECONDS_PER_ORDER * len(to_place)

    async def run(self, bars: LiveCounts) -> float:
        """Return the seconds it took once every order has ended.

        Raises:
            DemoFailed: a service ended by itself, or some orders did not end.
        """
        started = time.monotonic()
        placing = asyncio.create_task(self._place_all())
        try:
            while (counts := await self._look(bars)).ended < len(self._to_place):
                if placing.done():
                    placing.result()
                if time.monotonic() - started > self._deadline_seconds:
                    raise DemoFailed(await self._what_is_missing(counts))
                await asyncio.sleep(POLL_INTERVAL_SECONDS)
        finally:
            placing.cancel()
        return time.monotonic() - started

    async def settle(self, bars: LiveCounts) -> None:
        """Wait until every event is in Kafka and every message was handled; if that never comes, the checks say what is missing.

        Money that comes late is still on its way back when its order has ended.
        """
        until = time.monotonic() + SETTLE_TIMEOUT_SECONDS
        while time.monotonic() < until and not await self._is_quiet(bars):  # noqa: ASYNC110 - other processes are waited for
            await asyncio.sleep(POLL_INTERVAL_SECONDS)

    async def _is_quiet(self, bars: LiveCounts) -> bool:
        """Whether what the handlers have seen is all there is: looked at in this order, nothing can slip through between."""
        reached = [await next_offsets(client.database) for client in self._clients.values()]
        counts = await self._look(bars)
        ends = self._tail.ends
        return counts.in_kafka == counts.logged and all(
            offset >= ends.get(partition, 0) for offsets in reached for partition, offset in offsets.items()
        )

    async def _place_all(self) -> None:
        waiting = iter(self._to_place)
        next_at = time.monotonic()

        async def place() -> None:
            nonlocal next_at
            for order in waiting:
                next_at += self._interval_seconds
                while self._open_orders >= OPEN_ORDERS_MAX or time.monotonic() < next_at:  # noqa: ASYNC110 - as above
                    await asyncio.sleep(PLACING_INTERVAL_SECONDS)
                self._open_orders += 1
                await self._clients["orders"].store.append(stream_of(order.order_id), [order], expected_version=NO_STREAM)

        await asyncio.gather(*(place() for _ in range(PLACERS)))

    async def _look(self, bars: LiveCounts) -> Counts:
        for process in self._processes.values():
            process.require_running()
        events = {name: await count_events(client.database) for name, client in self._clients.items()}
        counts = Counts(
            placed=events["orders"]["OrderPlaced"],
            paid=events["orders"]["OrderPaid"],
            confirmed=events["orders"]["OrderConfirmed"],
            cancelled=events["orders"]["OrderCancelled"],
            logged=sum(counter.total() for counter in events.values()),
            in_kafka=await self._tail.count(),
        )
        self._open_orders = counts.placed - counts.ended
        bars.update(counts)
        return counts

    async def _what_is_missing(self, counts: Counts) -> str:
        missing = await open_orders(self._clients["orders"].database)
        left = len(self._to_place) - counts.ended
        lines = [
            f"after {self._deadline_seconds:.0f} s, {left:,} of {len(self._to_place):,} orders have not ended: {', '.join(missing)} …",
            f"{counts.placed:,} were placed, {counts.confirmed:,} confirmed and {counts.cancelled:,} cancelled",
            f"{counts.in_kafka:,} of {counts.logged:,} events are in Kafka",
            *(process.last_words() for process in self._processes.values()),
        ]
        return "\n".join(lines)
