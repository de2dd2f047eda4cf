"""Append: typed events into new streams, each call durable when it returns."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from itertools import count, cycle
from typing import Final

from benchmarks import plain_table
from benchmarks.measure import HEADWATER, Comparison, Comparisons, Contender, in_loops
from benchmarks.orders import OrderPlaced, encoded, mean_bytes, orders
from benchmarks.servers import Servers
from headwater.eventstore import EventStore, PostgresEventStore
from headwater.messages import NO_STREAM
from headwater.postgres import Database
from headwater.randomness import uuid7

CALLERS_AND_BATCH: Final = ((1, 1), (16, 1), (1, 100))

Append = Callable[[], Awaitable[int]]


async def compare_append(servers: Servers) -> Comparisons:
    """One caller, many callers, and batches, beside prepared inserts of JSON that was encoded beforehand."""
    events = orders()
    for callers, batch in CALLERS_AND_BATCH:
        async with servers.database(connections_max=callers) as database, AsyncExitStack() as stack:
            async with database.connection() as connection:
                await connection.execute(plain_table.CREATE)
            store, numbers = PostgresEventStore(database), count(1)
            conditions = {"callers": callers, "batch": batch, "bytes": mean_bytes(events), "durable": True, "events_per_stream": batch}
            yield Comparison(
                bench="append",
                conditions=conditions,
                contenders=[
                    Contender(HEADWATER, in_loops([_headwater_append(store, events, batch, numbers) for _ in range(callers)])),
                    Contender(
                        "raw asyncpg", in_loops([await _raw_append(database, stack, events, batch, numbers) for _ in range(callers)])
                    ),
                ],
            )


def _headwater_append(store: EventStore, events: tuple[OrderPlaced, ...], batch: int, numbers: count[int]) -> Append:
    endless = cycle(events)

    async def append() -> int:
        await store.append(f"order-{next(numbers)}", [next(endless) for _ in range(batch)], expected_version=NO_STREAM)
        return batch

    return append


async def _raw_append(
    database: Database, stack: AsyncExitStack, events: tuple[OrderPlaced, ...], batch: int, numbers: count[int]
) -> Append:
    connection = await database.connect()
    stack.push_async_callback(connection.close)
    endless = cycle(encoded(events))
    metadata = f'{{"correlation_id":"{uuid7()}"}}'
    if batch == 1:
        insert = await connection.prepare(plain_table.INSERT)

        async def append() -> int:
            await insert.fetchval(next(numbers), 1, "OrderPlaced", next(endless), metadata, uuid7())
            return 1

        return append

    insert_many = await connection.prepare(plain_table.INSERT_MANY)
    versions, types, metadatas = list(range(1, batch + 1)), ["OrderPlaced"] * batch, [metadata] * batch

    async def append_many() -> int:
        data, ids = [next(endless) for _ in range(batch)], [uuid7() for _ in range(batch)]
        await insert_many.fetchval(next(numbers), versions, types, data, metadatas, ids)
        return batch

    return append_many
