"""Processes die while the orders run: one every three seconds, chosen at random, without a warning, and it comes back."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

from orders.stage import ServiceProcess

KILL_INTERVAL_SECONDS: Final = 3.0


@asynccontextmanager
async def kill_processes(processes: Mapping[str, ServiceProcess]) -> AsyncIterator[Counter[str]]:
    """Kill and restart as long as the block runs; yields the count of kills by service, which grows.

    Each process is a relay, a consumer, projections and, in the orders service, sagas with their deadlines; all of them die at once.
    """
    kills: Counter[str] = Counter()
    leaving = asyncio.Event()
    killing = asyncio.create_task(_kill(processes, kills, leaving))
    try:
        yield kills
    finally:
        leaving.set()
        await killing


async def _kill(processes: Mapping[str, ServiceProcess], kills: Counter[str], leaving: asyncio.Event) -> None:
    """Whoever was killed is started again, even when it is time to leave."""
    next_at = time.monotonic() + KILL_INTERVAL_SECONDS
    while not await _is_set_before(leaving, next_at):
        victim = processes[random.choice(sorted(processes))]
        await victim.kill()
        kills[victim.name] += 1
        await victim.start()
        next_at += KILL_INTERVAL_SECONDS


async def _is_set_before(event: asyncio.Event, moment: float) -> bool:
    try:
        async with asyncio.timeout(max(0.0, moment - time.monotonic())):
            return await event.wait()
    except TimeoutError:
        return False
