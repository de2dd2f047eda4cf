"""Stream load: one stream from its beginning, as typed events."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from itertools import cycle, islice
from typing import Final
from uuid import UUID

from benchmarks import plain_table
from benchmarks.measure import HEADWATER, Call, Comparison, Comparisons, Contender, in_loops, in_threads
from benchmarks.orders import OrderPlaced, mean_bytes, orders
from benchmarks.peer import PEER, Peer, peer
from benchmarks.scale import Scale
from benchmarks.servers import Servers, neighbour_connection
from headwater.eventstore import PostgresEventStore
from headwater.messages import NO_STREAM, EventRegistry
from headwater.postgres import Database
from headwater.randomness import uuid7

STREAM_COUNT: Final = 20
"""Loaded in turn."""


async def compare_stream_load(servers: Servers, scale: Scale) -> Comparisons:
    """Each event decoded to its class, beside the same rows fetched and validated with nothing around it."""
    for length in scale.stream_lengths:
        async with AsyncExitStack() as stack:
            database = await stack.enter_async_context(servers.database())
            store, events = PostgresEventStore(database), list(islice(cycle(orders()), length))
            names = [f"order-{number}" for number in range(1, STREAM_COUNT + 1)]
            for name in names:
                await store.append(name, events, expected_version=NO_STREAM)
            own = await stack.enter_async_context(servers.database())
            other, ids = stack.enter_context(peer(own.dsn)), [uuid7() for _ in names]
            for stream_id in ids:
                other.put(stream_id, events)
            yield Comparison(
                bench="stream_load",
                conditions={"callers": 1, "events_per_stream": length, "bytes": mean_bytes(orders())},
                contenders=[
                    Contender(HEADWATER, in_loops([_headwater_load(store, names)])),
                    Contender("raw asyncpg", in_loops([await _raw_load(database, stack)])),
                    Contender(PEER, in_threads([_peer_load(other, ids)])),
                ],
            )


def _headwater_load(store: PostgresEventStore, names: list[str]) -> Call:
    registry, endless = EventRegistry([OrderPlaced]), cycle(names)

    async def load() -> int:
        return len([registry.decode(recorded) async for recorded in store.read_stream(next(endless))])

    return load


async def _raw_load(database: Database, stack: AsyncExitStack) -> Call:
    connection = await neighbour_connection(database, stack)
    await connection.execute(plain_table.CREATE)
    await connection.execute(plain_table.COPY_FROM_LOG)
    await connection.execute("VACUUM (ANALYZE, FREEZE)")
    fetch = await connection.prepare(plain_table.READ_STREAM)
    ids = [row["stream_id"] for row in await connection.fetch("SELECT DISTINCT stream_id FROM plain_events ORDER BY stream_id")]
    endless = cycle(ids)

    async def load() -> int:
        rows = await fetch.fetch(next(endless))
        return len([OrderPlaced.model_validate_json(row["data"]) for row in rows])

    return load


def _peer_load(other: Peer, ids: list[UUID]) -> Callable[[], int]:
    endless = cycle(ids)

    def load() -> int:
        return len(list(other.store.get(next(endless))))

    return load
