"""Append: typed events into new streams, each call durable when it returns."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from itertools import count, cycle, islice

import asyncpg

from benchmarks import plain_table
from benchmarks.groups import grouped_inserts
from benchmarks.measure import HEADWATER, Call, Comparison, Comparisons, Contender, Sample, in_loops, in_threads
from benchmarks.order_keeping import WAYS_TO_KEEP_ORDER
from benchmarks.orders import encoded, mean_bytes, orders
from benchmarks.peer import PEER, PEER_FUNCTIONS, Peer, peer
from benchmarks.scale import Scale
from benchmarks.servers import Servers, neighbour_connection
from headwater.eventstore import EventStore, PostgresEventStore
from headwater.messages import CORRELATION_ID, NO_STREAM, NewEvent
from headwater.postgres import Database, sql_file
from headwater.randomness import uuid7

CONNECTION_PER_CALLER = "one connection per caller"
GROUPED = "raw asyncpg, grouped"
ENCODED = "headwater, encoded beforehand"
CONNECTION_CALLERS_MAX = 64
"""More callers than that do not get a connection each; no server would be configured so."""
GROUPED_CALLERS_MIN = 8
"""Fewer callers than that hardly make groups."""
SYSTEMS_WITH_CONNECTIONS = 6
"""That many systems of a comparison hold a connection for each caller."""
OTHER_CONNECTIONS = 100
"""What pools, observers and administrators hold beside them."""

# What PostgresEventStore itself calls for a lone event, where there is such a function; else what other drivers call.
HAS_TRY_APPEND_ONE = "SELECT to_regprocedure('headwater.try_append_one(text, bigint, text, jsonb, jsonb, uuid)') IS NOT NULL"
TRY_APPEND_ONE = "SELECT headwater.try_append_one($1, $2, $3, $4, $5, $6)"
PREFER_INDEXES = sql_file("headwater.eventstore", "prefer_indexes")
APPEND_EVENTS = "SELECT * FROM headwater.append_events($1, $2, ARRAY[$3::text], ARRAY[$4::jsonb], ARRAY[$5::jsonb], ARRAY[$6::uuid])"


async def compare_append(servers: Servers, scale: Scale) -> Comparisons:
    """Single events by few and many callers, then batches by one."""
    connected = min(max(scale.callers), CONNECTION_CALLERS_MAX)
    await servers.require_connections(SYSTEMS_WITH_CONNECTIONS * connected + OTHER_CONNECTIONS)
    for callers, batch in [*((callers, 1) for callers in scale.callers), *((1, batch) for batch in scale.batches)]:
        async with AsyncExitStack() as stack:
            yield Comparison(
                bench="append",
                conditions={"callers": callers, "batch": batch, "bytes": mean_bytes(orders()), "durable": True, "events_per_stream": batch},
                contenders=await _contenders(servers, stack, callers, batch),
            )


async def _contenders(servers: Servers, stack: AsyncExitStack, callers: int, batch: int) -> list[Contender]:
    database = await stack.enter_async_context(servers.database(connections_max=16))
    async with database.connection() as connection:
        await connection.execute(plain_table.CREATE)
    store, numbers = PostgresEventStore(database), count(1)
    contenders = [Contender(HEADWATER, in_loops([headwater_append(store, batch, numbers) for _ in range(callers)]))]
    if callers <= CONNECTION_CALLERS_MAX:
        contenders.append(Contender("raw asyncpg", in_loops([await _raw_append(database, stack, batch, numbers) for _ in range(callers)])))
    if callers >= GROUPED_CALLERS_MIN:
        contenders.append(Contender(ENCODED, in_loops([_encoded_append(store, batch, numbers) for _ in range(callers)])))
        contenders.append(Contender(GROUPED, await grouped_inserts(database, stack, numbers)))
    if batch == 1 and callers <= CONNECTION_CALLERS_MAX:
        contenders.append(Contender(CONNECTION_PER_CALLER, await _leanest_function(servers, stack, callers)))
        if callers > 1:
            contenders += [await _ordered(servers, stack, way, callers) for way in WAYS_TO_KEEP_ORDER]
    for system in (PEER, PEER_FUNCTIONS):
        own = await stack.enter_async_context(servers.database())
        other = stack.enter_context(peer(own.dsn, functions=system == PEER_FUNCTIONS))
        contenders.append(Contender(system, in_threads([_peer_append(other, batch) for _ in range(callers)])))
    return contenders


def headwater_append(store: EventStore, batch: int, numbers: count[int]) -> Call:
    """Typed events, encoded on the way, into a new stream for each call."""
    endless = cycle(orders())

    async def append() -> int:
        await store.append(f"order-{next(numbers)}", list(islice(endless, batch)), expected_version=NO_STREAM)
        return batch

    return append


def _encoded_append(store: EventStore, batch: int, numbers: count[int]) -> Call:
    """The same without encoding: what the raw side gets, too."""
    endless = cycle(encoded(orders()))
    metadata = {CORRELATION_ID: str(uuid7())}

    async def append() -> int:
        events = [NewEvent("OrderPlaced", data, metadata=metadata) for data in islice(endless, batch)]
        await store.append(f"order-{next(numbers)}", events, expected_version=NO_STREAM)
        return batch

    return append


async def _raw_append(database: Database, stack: AsyncExitStack, batch: int, numbers: count[int]) -> Call:
    """A prepared insert of JSON that was encoded beforehand, on a connection of its own."""
    connection = await neighbour_connection(database, stack)
    endless = cycle(encoded(orders()))
    metadata = plain_table.new_metadata()
    if batch == 1:
        insert = await connection.prepare(plain_table.INSERT)

        async def append() -> int:
            await insert.fetchval(next(numbers), 1, "OrderPlaced", next(endless), metadata, uuid7())
            return 1

        return append

    insert_many = await connection.prepare(plain_table.INSERT_MANY)
    versions, types, metadatas = list(range(1, batch + 1)), ["OrderPlaced"] * batch, [metadata] * batch

    async def append_many() -> int:
        data, ids = list(islice(endless, batch)), [uuid7() for _ in range(batch)]
        await insert_many.fetchval(next(numbers), versions, types, data, metadatas, ids)
        return batch

    return append_many


async def _through_function(database: Database, stack: AsyncExitStack, callers: int, function: str) -> Sample:
    """One of Headwater's SQL functions, given JSON that was encoded beforehand, a connection for each caller."""

    async def caller(number: int) -> Call:
        connection = await neighbour_connection(database, stack)
        await connection.fetchrow(PREFER_INDEXES)
        prepared, endless, numbers = await connection.prepare(function), cycle(encoded(orders())), count(1)
        metadata = plain_table.new_metadata()

        async def append() -> int:
            arguments = (f"order-{number}.{next(numbers)}", NO_STREAM, "OrderPlaced", next(endless), metadata, uuid7())
            while True:
                try:
                    await prepared.fetchrow(*arguments)
                    return 1
                except asyncpg.LockNotAvailableError:
                    # try_append_one waits for locks at most 20 ms, and on a crowded machine the table's growth may take longer; the store repeats it, too.
                    continue

        return append

    return in_loops([await caller(number) for number in range(callers)])


async def _leanest_function(servers: Servers, stack: AsyncExitStack, callers: int) -> Sample:
    """In a database of its own: in Headwater's, its rows would be taken for groups of one."""
    database = await stack.enter_async_context(servers.database())
    async with database.connection() as connection:
        function = TRY_APPEND_ONE if await connection.fetchval(HAS_TRY_APPEND_ONE) else APPEND_EVENTS
    return await _through_function(database, stack, callers, function)


async def _ordered(servers: Servers, stack: AsyncExitStack, way: str, callers: int) -> Contender:
    database = await stack.enter_async_context(servers.database())
    if change := WAYS_TO_KEEP_ORDER[way]:
        async with database.connection() as connection:
            await connection.execute(change)
    return Contender(way, await _through_function(database, stack, callers, APPEND_EVENTS))


def _peer_append(other: Peer, batch: int) -> Callable[[], int]:
    endless = cycle(orders())

    def append() -> int:
        other.put(uuid7(), islice(endless, batch))
        return batch

    return append
