"""A consumer of the log in a process of its own, to be killed or paused: `python -m tests.fault.bus.log_consumer_process '{"dsn": …}'`."""

from __future__ import annotations

import json
import sys
from typing import Any

import uvloop

from headwater.bus import Consumer, ConsumerLimits, PostgresEffects, PostgresLogPartitions, PostgresSource, RetryPolicy
from headwater.coordination import PostgresLeases
from headwater.eventstore import PostgresEventStore
from headwater.postgres import Database
from tests.fault.bus.consumer_process import subscriptions_of


async def main(config: dict[str, Any]) -> None:
    async with Database(config["dsn"], connections_max=4, application_name=config["name"]) as database:
        store = PostgresEventStore(database)
        source = PostgresSource(
            store, PostgresLogPartitions(database), PostgresLeases(database), group=config["group"], lease_seconds=config["lease_seconds"]
        )
        consumer = Consumer(
            group=config["group"],
            subscriptions=subscriptions_of(config["category"], flaky=True),
            source=source,
            effects=PostgresEffects(database, store, on_commit=source.wake),
            retry_policy=RetryPolicy(first_delay_seconds=0.02),
            limits=ConsumerLimits(batch_size_max=config["batch_size_max"], reclaim_seconds=1.0, reconnect_seconds_max=1.0),
        )
        await consumer.run()


if __name__ == "__main__":
    uvloop.run(main(json.loads(sys.argv[1])))
