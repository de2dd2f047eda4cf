"""Growth: what an append costs in a small log and in a large one."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from typing import Final

from benchmarks.bulk import fill_log_in_bulk
from benchmarks.measure import Call, Comparison, Comparisons, Contender, in_loops
from benchmarks.orders import mean_bytes, orders
from benchmarks.scale import Scale
from benchmarks.servers import Servers
from headwater.eventstore import PostgresEventStore
from headwater.messages import ANY, NO_STREAM
from headwater.postgres import Database

CALLERS: Final = 8
SEED: Final = 20_260_704


async def compare_growth(servers: Servers, scale: Scale) -> Comparisons:
    """The same appends to logs of different length that take turns; half go to new streams, half to any of those there are."""
    async with AsyncExitStack() as stack:
        contenders: list[Contender] = []
        for event_count in scale.growth_events:
            database = await stack.enter_async_context(servers.database(connections_max=CALLERS))
            stream_count = await fill_log_in_bulk(database, event_count)
            appends = [_append(database, stream_count, caller) for caller in range(CALLERS)]
            contenders.append(Contender(size_name(event_count), in_loops(appends), {"events": event_count}))
        yield Comparison("growth", {"callers": CALLERS, "batch": 1, "bytes": mean_bytes(orders()), "durable": True}, contenders)


def size_name(event_count: int) -> str:
    """How the table and goals.toml call a log of this length."""
    return f"{event_count:,} events"


def _append(database: Database, stream_count: int, caller: int) -> Call:
    store, chance, new_streams = PostgresEventStore(database), random.Random(SEED + caller), 0

    async def append() -> int:
        nonlocal new_streams
        events = [chance.choice(orders())]
        if chance.random() < 0.5:
            new_streams += 1
            await store.append(f"order-new.{caller}.{new_streams}", events, expected_version=NO_STREAM)
        else:
            await store.append(f"order-{chance.randint(1, stream_count)}", events, expected_version=ANY)
        return 1

    return append
