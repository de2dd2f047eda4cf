"""A consumer in a process of its own, to be killed or paused: `python consumer_process.py '{"dsn": …}'`."""

from __future__ import annotations

import json
import sys
from typing import Any

import uvloop

from headwater.bus import Consumer, ConsumerLimits, Context, KafkaSource, Park, PostgresEffects, RetryPolicy, Subscriptions
from headwater.eventstore import PostgresEventStore
from headwater.kafka import KafkaSettings
from headwater.messages import Event
from headwater.postgres import Database


class CounterMoved(Event, category="counter"):
    number: int


class CounterSeen(Event, category="seen"):
    number: int


POISON = 61
"""Every so many numbers there is one that cannot be handled before the table `mended` has a row, where a test asks for poison."""
PARKED_SOON = RetryPolicy(attempts_max=1, then=Park(attempts_max=1_000, first_delay_seconds=0.05, delay_factor=1.0))


def subscriptions_of(category: str, *, flaky: bool, poison: bool = False, lanes: int = 0) -> Subscriptions:
    """Two handlers for the events of one test's own topic: a table row and an append, and now and then a failure that passes."""
    subscriptions = Subscriptions()
    moved: type[Any] = type("CounterMoved", (CounterMoved,), {"__module__": __name__}, category=category)
    failed: set[int] = set()

    @subscriptions.on(moved, lanes=lanes, **({"retry": PARKED_SOON} if poison else {}))
    async def write_row(event: Any, context: Context) -> None:
        if poison and event.number % POISON == 0 and not await context.connection.fetchval("SELECT count(*) FROM mended"):
            raise RuntimeError("not mended yet")
        await context.connection.execute("INSERT INTO effects (stream, number) VALUES ($1, $2)", context.stream_name, event.number)
        if flaky and event.number % 97 == 0 and event.number not in failed:
            failed.add(event.number)
            raise ValueError("the first time")

    @subscriptions.on(moved)
    async def append_event(event: Any, context: Context) -> None:
        await context.append(f"seen-{context.stream_name}", CounterSeen(number=event.number))

    return subscriptions


async def main(config: dict[str, Any]) -> None:
    async with Database(config["dsn"], connections_max=4) as database:
        consumer = Consumer(
            group=config["group"],
            subscriptions=subscriptions_of(
                config["category"], flaky=config.get("flaky", True), poison=config.get("poison", False), lanes=config.get("lanes", 0)
            ),
            source=KafkaSource(
                KafkaSettings.parse(config["kafka"]), group=config["group"], session_timeout_seconds=config.get("session_seconds", 6.0)
            ),
            effects=PostgresEffects(database, PostgresEventStore(database)),
            retry_policy=RetryPolicy(first_delay_seconds=0.02),
            limits=ConsumerLimits(
                batch_size_max=config.get("batch_size_max", 50), parked_batch_size_max=config.get("parked_batch_size_max", 3)
            ),
        )
        await consumer.run()


if __name__ == "__main__":
    uvloop.run(main(json.loads(sys.argv[1])))
