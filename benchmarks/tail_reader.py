"""`python -m benchmarks.tail_reader KIND DSN`: a subscriber in a process of its own.

It prints `ready` once it follows the log, then for each event its position and the moment it had it, by the clock that all processes of the machine share.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from time import perf_counter
from typing import Any, Final

import asyncpg

import headwater.eventstore
from benchmarks import plain_table
from benchmarks.loop import run_loop
from benchmarks.orders import OrderPlaced
from headwater.eventstore import PostgresEventStore
from headwater.messages import EventRegistry
from headwater.postgres import Database

POLL_SECONDS: Final = 0.01
CHANNEL: Final = "plain_events"
PAGE_SIZE: Final = 1_000
LOOK_BACK_POSITIONS: Final = 50

log: Any = headwater.eventstore
HAS_SUBSCRIPTION: Final = hasattr(log, "Subscription")


def tell(position: int) -> None:
    """The reader has this event, decoded, now."""
    print(position, perf_counter(), flush=True)


async def subscribe(dsn: str) -> None:
    """A subscription with its doorbell, as a service has it."""
    registry, is_ready = EventRegistry([OrderPlaced]), False
    async with Database(dsn) as database:
        store = PostgresEventStore(database)
        tail = log.LogTail(store)
        async with log.LogDoorbell(database, on_ring=tail.wake) as doorbell, log.Subscription(store, tail=tail) as batches:
            doorbell.listen()
            while not is_ready:
                is_ready = doorbell.is_listening
                await asyncio.sleep(POLL_SECONDS)
            print("ready", flush=True)
            async for batch in batches:
                for recorded in batch.events:
                    registry.decode(recorded)
                    tell(recorded.global_position)


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
    """Asyncpg with LISTEN: a page is fetched at every notification.

    A plain table shows positions out of order, and a reader that only went on from the last one would lose events here within seconds. So it looks at
    the last few once more, which is no guarantee, but enough for a measurement.
    """
    connection = await asyncpg.connect(dsn)
    rung, seen, last = asyncio.Event(), set[int](), 0
    fetch = await connection.prepare(plain_table.READ)
    await connection.add_listener(CHANNEL, lambda *_: rung.set())
    print("ready", flush=True)
    while True:
        rung.clear()
        for row in await fetch.fetch(max(0, last - LOOK_BACK_POSITIONS), PAGE_SIZE):
            if (position := row["global_position"]) not in seen:
                OrderPlaced.model_validate_json(row["data"])
                tell(position)
                seen.add(position)
                last = max(last, position)
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


READERS: Final[dict[str, Callable[[str], Coroutine[Any, Any, None]]]] = {
    "subscription": subscribe,
    "poll": poll,
    "listen": listen,
    "peer": subscribe_peer,
}

if __name__ == "__main__":
    run_loop(READERS[sys.argv[1]](sys.argv[2]))
