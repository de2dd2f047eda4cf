"""A consumer of a foreign topic in a process of its own, to be killed: `python -m tests.fault.bus.foreign_process '{"dsn": …}'`."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from headwater.bus import Consumer, ConsumerLimits, Context, KafkaSource, PostgresEffects, RetryPolicy, Subscriptions
from headwater.eventstore import PostgresEventStore
from headwater.kafka import KafkaSettings
from headwater.messages import Event
from headwater.postgres import Database


class Reading(Event):
    """What the foreign producer writes."""

    number: int


class ReadingSeen(Event, category="seen"):
    number: int


async def main(config: dict[str, Any]) -> None:
    subscriptions = Subscriptions()

    @subscriptions.on_topic(config["topic"], Reading)
    async def take(event: Reading, context: Context) -> None:
        await context.append(f"seen-{context.stream_name}", ReadingSeen(number=event.number))

    async with Database(config["dsn"], connections_max=4) as database:
        consumer = Consumer(
            group="foreign",
            subscriptions=subscriptions,
            # A name that outlives the process, so that its successor need not wait until the broker misses it.
            source=KafkaSource(KafkaSettings.parse(config["kafka"]), group=config["topic"], instance_id="reader"),
            effects=PostgresEffects(database, PostgresEventStore(database)),
            retry_policy=RetryPolicy(first_delay_seconds=0.02),
            limits=ConsumerLimits(batch_size_max=20),
        )
        await consumer.run()


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
