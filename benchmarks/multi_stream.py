"""Append to several streams at once, all or nothing."""

from __future__ import annotations

from contextlib import AsyncExitStack
from itertools import count, cycle, islice
from typing import Any, Final

import headwater.eventstore
from benchmarks import plain_table
from benchmarks.measure import HEADWATER, Call, Comparison, Comparisons, Contender, Pending, in_loops, in_threads
from benchmarks.orders import encoded, mean_bytes, orders
from benchmarks.peer import PEER, Peer, peer, peer_events
from benchmarks.scale import Scale
from benchmarks.servers import Servers, neighbour_connection
from headwater.eventstore import PostgresEventStore
from headwater.messages import NO_STREAM
from headwater.postgres import Database
from headwater.randomness import uuid7

BENCH: Final = "multi_stream"
CALLERS_AND_STREAMS: Final = ((1, 2), (1, 10), (16, 2))

StreamAppend: Any = getattr(headwater.eventstore, "StreamAppend", None)


async def compare_multi_stream(servers: Servers, _scale: Scale) -> Comparisons:
    """One event for each of several new streams, beside separate appends in one transaction and beside one raw insert."""
    for callers, streams in CALLERS_AND_STREAMS:
        conditions = {"callers": callers, "streams": streams, "bytes": mean_bytes(orders()), "durable": True}
        if StreamAppend is None or not hasattr(PostgresEventStore, "append_to_streams"):
            yield Pending(BENCH, "EventStore.append_to_streams is not in this version", conditions)
            continue
        async with AsyncExitStack() as stack:
            database = await stack.enter_async_context(servers.database(connections_max=16))
            async with database.connection() as connection:
                await connection.execute(plain_table.CREATE)
            own = await stack.enter_async_context(servers.database())
            other, numbers = stack.enter_context(peer(own.dsn)), count(1)
            yield Comparison(
                bench=BENCH,
                conditions=conditions,
                contenders=[
                    Contender(HEADWATER, in_loops([_at_once(database, streams, numbers) for _ in range(callers)])),
                    Contender("one transaction", in_loops([_one_by_one(database, streams, numbers) for _ in range(callers)])),
                    Contender("raw asyncpg", in_loops([await _raw(database, stack, streams, numbers) for _ in range(callers)])),
                    Contender(PEER, in_threads([_peer_put(other, streams) for _ in range(callers)])),
                ],
            )


def _at_once(database: Database, streams: int, numbers: count[int]) -> Call:
    store: Any = PostgresEventStore(database)
    endless = cycle(orders())

    async def append() -> int:
        appends = [StreamAppend(f"order-{next(numbers)}", [next(endless)], NO_STREAM) for _ in range(streams)]
        await store.append_to_streams(appends)
        return streams

    return append


def _one_by_one(database: Database, streams: int, numbers: count[int]) -> Call:
    """What a user without `append_to_streams` would write."""
    store, endless = PostgresEventStore(database), cycle(orders())

    async def append() -> int:
        async with database.transaction() as connection:
            for _ in range(streams):
                await store.append(f"order-{next(numbers)}", [next(endless)], expected_version=NO_STREAM, connection=connection)
        return streams

    return append


async def _raw(database: Database, stack: AsyncExitStack, streams: int, numbers: count[int]) -> Call:
    connection = await neighbour_connection(database, stack)
    insert, endless = await connection.prepare(plain_table.INSERT_GROUP), cycle(encoded(orders()))
    versions, types, metadatas = [1] * streams, ["OrderPlaced"] * streams, [plain_table.new_metadata()] * streams

    async def append() -> int:
        ids = [uuid7() for _ in range(streams)]
        await insert.fetchval(list(islice(numbers, streams)), versions, types, list(islice(endless, streams)), metadatas, ids)
        return streams

    return append


def _peer_put(other: Peer, streams: int) -> Any:
    endless = cycle(orders())

    def append() -> int:
        other.store.put([event for _ in range(streams) for event in peer_events(uuid7(), [next(endless)])])
        return streams

    return append
