"""`python -m benchmarks.tail_reader KIND DSN`: a subscriber in a process of its own.

It prints `ready` once it follows the log, then for each event its position and the moment it had it, by the clock that all processes of the machine share.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any, Final

import asyncpg
import uvloop

import headwater.eventstore
from benchmarks import plain_table
from benchmarks.orders import OrderPlaced
from headwater.eventstore import PostgresEventStore
from headwater.messages import EventRegistry
from headwater.postgres import Database

POLL_SECONDS: Final = 0.01
CHANNEL: Final = "plain_events"
PAGE_SIZE: Final = 1_000

Subscription: Any = getattr(headwater.eventstore, "Subscription", None)


def tell(position: int) -> None:
    """The reader has this event, decoded, now."""
    print(position, perf_counter(), flush=True)


async def poll(dsn: str) -> None:
    """`read_log` again and again: what there is without a subscription."""
    registry, after = EventRegistry([OrderPlaced]), 0
    async with Database(dsn) as database:
        store, is_ready = PostgresEventStore(database), False
        while True:
            events = (await store.read_log(after=after, limit=PAGE_SIZE)).events
            for recorded in events:
                registry.decode(recorded)
                tell(recorded.global_position)
                after = recorded.global_position
            if not events:
                if not is_ready:
                    is_ready = True
                    print("ready", flush=True)
                await asyncio.sleep(POLL_SECONDS)


async def listen(dsn: str) -> None:
    """asyncpg with LISTEN: a page is fetched at every notification."""
    connection = await asyncpg.connect(dsn)
    rung, after = asyncio.Event(), 0
    fetch = await connection.prepare(plain_table.READ)
    await connection.add_listener(CHANNEL, lambda *_: rung.set())
    print("ready", flush=True)
    while True:
        rung.clear()
        while rows := await fetch.fetch(after, PAGE_SIZE):
            for row in rows:
                OrderPlaced.model_validate_json(row["data"])
                tell(row["global_position"])
            after = rows[-1]["global_position"]
        await rung.wait()


async def subscribe_peer(dsn: str) -> None:
    """The subscription of `eventsourcing`, which listens, too."""
    from benchmarks.peer import peer

    def follow() -> None:
        with peer(dsn) as other, other.recorder.subscribe(gt=0) as subscription:
            print("ready", flush=True)
            for notification in subscription:
                other.mapper.to_domain_event(notification)
                tell(notification.id)

    await asyncio.to_thread(follow)


READERS: Final[dict[str, Callable[[str], Awaitable[None]]]] = {"poll": poll, "listen": listen, "peer": subscribe_peer}

if __name__ == "__main__":
    uvloop.run(READERS[sys.argv[1]](sys.argv[2]))  # type: ignore[arg-type]
