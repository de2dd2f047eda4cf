"""`python -m benchmarks.end_to_end_service DSN BOOTSTRAP CATEGORY`: the relay and a consumer in a process of their own.

It prints the position of each event and the moment at which its effect was committed, by the clock that all processes of the machine share.
"""

from __future__ import annotations

import asyncio
import sys
from time import perf_counter
from typing import Final

from benchmarks.consume import STORE_EFFECT
from benchmarks.kafka_records import EVENT_SOURCE, kafka_settings
from benchmarks.loop import run_loop
from benchmarks.orders import OrderPlaced, placed_in
from headwater.bus import Consumer, Context, KafkaSource, PostgresEffects, Subscriptions
from headwater.eventstore import LogDoorbell, PostgresEventStore
from headwater.outbox import KafkaRelayBroker, PostgresRelayPositions, Relay
from headwater.postgres import Database
from headwater.telemetry import configure_logging

GROUP: Final = "bench-end-to-end"
POISON_CUSTOMER: Final = "POISON"
"""Orders of this customer fail every time."""


async def serve(dsn: str, bootstrap: str, category: str) -> None:
    """Relay, handle, and tell of every commit."""
    event_class, subscriptions, handled = placed_in(category), Subscriptions(), list[int]()

    @subscriptions.on(event_class)
    async def store(event: OrderPlaced, context: Context) -> None:
        if event.customer_id == POISON_CUSTOMER:
            raise ValueError(POISON_CUSTOMER)
        await context.connection.execute(STORE_EFFECT, event.order_id, sum(line.quantity for line in event.lines))
        handled.append(context.position.global_position)

    def committed() -> None:
        moment = perf_counter()
        for position in handled:
            print(position, moment)
        sys.stdout.flush()
        handled.clear()

    async with Database(dsn) as database:
        log = PostgresEventStore(database)
        relay = Relay(log, KafkaRelayBroker(kafka_settings(bootstrap)), PostgresRelayPositions(database), event_source=EVENT_SOURCE)
        source, effects = KafkaSource(kafka_settings(bootstrap), group=GROUP), PostgresEffects(database, log, on_commit=committed)
        consumer = Consumer(group=GROUP, subscriptions=subscriptions, source=source, effects=effects)
        async with LogDoorbell(database, on_ring=relay.wake) as doorbell, asyncio.TaskGroup() as workers:
            doorbell.listen()
            workers.create_task(relay.run())
            workers.create_task(consumer.run())


if __name__ == "__main__":
    configure_logging(log_level="error")
    run_loop(serve(*sys.argv[1:]))
