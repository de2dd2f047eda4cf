"""Lanes: how many messages of one partition a handler gets through that waits for the outside world each time."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import count
from time import perf_counter
from typing import Final

from benchmarks.consume import TURN_SECONDS_MAX
from benchmarks.kafka_records import produce_raw, raw_producer, records_of_log
from benchmarks.log_read import fill_log
from benchmarks.measure import Comparison, Comparisons, Contender, Sample
from benchmarks.orders import OrderPlaced, mean_bytes, orders, placed_in
from benchmarks.scale import Scale
from benchmarks.servers import Servers, new_category
from headwater.bus import Consumer, KafkaSource, PostgresEffects, Subscriptions
from headwater.eventstore import PostgresEventStore
from headwater.kafka import KafkaSettings, KafkaTopics
from headwater.postgres import Database

LANES: Final = (16, 1)
WAIT_SECONDS: Final = 0.01


async def compare_lanes(servers: Servers, scale: Scale) -> Comparisons:
    """A topic with one partition, each turn from its beginning in a group of its own."""
    category = new_category()
    event_class = placed_in(category)
    events = orders(event_class)
    async with servers.database(connections_max=4) as database, servers.topics([category]):
        await fill_log(database, events, max(LANES) * scale.lane_events)
        await KafkaTopics(KafkaSettings.parse(servers.bootstrap, topic_partitions=1)).ensure([category])
        async with raw_producer(servers.bootstrap) as producer:
            records = await records_of_log(PostgresEventStore(database), partition_count=1)
            await produce_raw(producer, category, records)
        yield Comparison(
            bench="lanes",
            conditions={"wait_seconds": WAIT_SECONDS, "bytes": mean_bytes(events), "durable": True, "format": "json", "partitions": 1},
            contenders=[
                Contender(
                    f"{lanes} lane{'s' if lanes > 1 else ''}",
                    _lane_turns(servers.bootstrap, database, event_class, lanes, lanes * scale.lane_events),
                )
                for lanes in LANES
            ],
        )


def _lane_turns(bootstrap: str, database: Database, event_class: type[OrderPlaced], lanes: int, event_count: int) -> Sample:
    groups, prefix = count(1), new_category()

    async def sample(_: float) -> float:
        """From the first call to the last return of those that are counted."""
        began, handled, all_handled, subscriptions = 0.0, 0, asyncio.Event(), Subscriptions()

        @subscriptions.on(event_class, lanes=lanes)
        async def wait(_event: OrderPlaced) -> None:
            nonlocal began, handled
            began = began or perf_counter()
            await asyncio.sleep(WAIT_SECONDS)
            handled += 1
            if handled == event_count:
                all_handled.set()

        group = f"bench-{prefix}-{next(groups)}"
        source = KafkaSource(KafkaSettings.parse(bootstrap), group=group)
        effects = PostgresEffects(database, PostgresEventStore(database))
        running = asyncio.create_task(Consumer(group=group, subscriptions=subscriptions, source=source, effects=effects).run())
        try:
            async with asyncio.timeout(TURN_SECONDS_MAX):
                await all_handled.wait()
            return event_count / (perf_counter() - began)
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running

    return sample
