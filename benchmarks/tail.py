"""The log's tail: how long after the call of `append` a subscriber in another process has the event, and what it costs to wait for none."""

from __future__ import annotations

import asyncio
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import count, cycle
from time import perf_counter
from typing import Final, TypeAlias

import asyncpg
from asyncpg.prepared_stmt import PreparedStatement

from benchmarks import plain_table
from benchmarks.measure import (
    HEADWATER,
    P50,
    P99,
    Comparison,
    Comparisons,
    Contender,
    Metric,
    Pending,
    Sample,
    at_a_steady_rate,
    latency_percentiles,
)
from benchmarks.orders import encoded, mean_bytes, orders
from benchmarks.peer import PEER, PEER_CONNECTIONS_MAX, peer, peer_events
from benchmarks.scale import Scale
from benchmarks.servers import Servers, neighbour_connection
from benchmarks.statement_counter import counting_statements
from benchmarks.subprocesses import next_line, python_process
from benchmarks.tail_reader import CHANNEL, HAS_SUBSCRIPTION, log
from headwater.errors import HeadwaterError
from headwater.eventstore import EventStore, PostgresEventStore, WatchedEventStore
from headwater.messages import NO_STREAM
from headwater.postgres import Database
from headwater.randomness import uuid7

BENCH: Final = "tail"
POLLING: Final = "headwater, read_log polled"
LISTENING: Final = "raw asyncpg, LISTEN"
APPENDS_PER_SECOND: Final = 500
PEER_APPENDS_PER_SECOND: Final = 100
"""At 500 a second its writers would fall behind on a small machine, and the latency would measure their queue."""
WRITERS: Final = 8
ARRIVAL_SECONDS_MAX: Final = 60.0
SETTLING_SECONDS: Final = 1.0
"""After a reader says that it is ready, before its statements are counted."""
STATEMENTS: Final = Metric("statements", "statements/s")

APPEND_AND_NOTIFY: Final = f"""
WITH appended AS ({plain_table.INSERT.strip()} RETURNING global_position)
SELECT global_position, pg_notify('{CHANNEL}', '') FROM appended
"""

Append: TypeAlias = Callable[[], Awaitable[int]]
"""Appends one event and returns its position."""


@dataclass(frozen=True, slots=True)
class Tail:
    """A log that is appended to, and the kind of reader that follows it."""

    system: str
    reader: str
    dsn: str
    append: Append
    appends_per_second: int = APPENDS_PER_SECOND


async def compare_tail(servers: Servers, scale: Scale) -> Comparisons:
    """At a steady rate, then idle."""
    busy = {"appends_per_second": APPENDS_PER_SECOND, "bytes": mean_bytes(orders()), "durable": True}
    idle = {"appends_per_second": 0, "seconds": scale.idle_seconds}
    if not HAS_SUBSCRIPTION:
        yield Pending(BENCH, "Subscription is not in this version", busy)
        yield Pending(BENCH, "Subscription is not in this version", idle)
    async with AsyncExitStack() as stack:
        tails = [await _headwater_tail(servers, stack), await _listening_tail(servers, stack), await _peer_tail(servers, stack)]
        followed = [
            (tail, await stack.enter_async_context(python_process("benchmarks.tail_reader", tail.reader, tail.dsn))) for tail in tails
        ]
        contenders = [
            Contender(tail.system, _Latencies(tail, reader).sample, {"appends_per_second": tail.appends_per_second})
            for tail, reader in followed
        ]
        yield Comparison(BENCH, busy, contenders, metrics=(P50, P99))
    async with AsyncExitStack() as stack:
        tails = [await _headwater_tail(servers, stack), await _listening_tail(servers, stack), await _peer_tail(servers, stack)]
        contenders = [Contender(tail.system, _idle_statements(tail, scale.idle_seconds)) for tail in tails]
        yield Comparison(BENCH, idle, contenders, rounds=1, metrics=(STATEMENTS,))


class _Latencies:
    """Appends at a steady rate, whether or not earlier ones have returned, and waits until the reader has had all."""

    def __init__(self, tail: Tail, reader: Process) -> None:
        self._tail, self._reader, self._is_ready = tail, reader, False

    async def sample(self, seconds: float) -> dict[str, float]:
        if not self._is_ready:
            assert await next_line(self._reader) == "ready"
            self._is_ready = True
        event_count = max(10, round(seconds * self._tail.appends_per_second))
        arriving = asyncio.create_task(self._arrivals(event_count))
        called = await self._append(event_count)
        try:
            async with asyncio.timeout(ARRIVAL_SECONDS_MAX):
                arrived = await arriving
        except TimeoutError:
            raise HeadwaterError(
                f"tail: the reader of {self._tail.system!r} had not got all of {event_count} events after {ARRIVAL_SECONDS_MAX:g} seconds"
            ) from None
        return latency_percentiles(called, arrived)

    async def _append(self, event_count: int) -> dict[int, float]:
        """When each event's append was called, by its position."""
        called: dict[int, float] = {}

        async def one(_number: int) -> None:
            began = perf_counter()
            called[await self._tail.append()] = began

        await at_a_steady_rate(event_count, self._tail.appends_per_second, one)
        return called

    async def _arrivals(self, event_count: int) -> dict[int, float]:
        lines = [await next_line(self._reader) for _ in range(event_count)]
        return {int(position): float(moment) for position, moment in (line.split() for line in lines)}


def _idle_statements(tail: Tail, idle_seconds: float) -> Sample:
    async def sample(_seconds: float) -> float:
        async with counting_statements(tail.dsn) as (counter, dsn), python_process("benchmarks.tail_reader", tail.reader, dsn) as reader:
            assert await next_line(reader) == "ready"
            await asyncio.sleep(SETTLING_SECONDS)
            before = counter.statement_count
            await asyncio.sleep(idle_seconds)
            return (counter.statement_count - before) / idle_seconds

    return sample


async def _headwater_tail(servers: Servers, stack: AsyncExitStack) -> Tail:
    database = await stack.enter_async_context(servers.database(connections_max=WRITERS))
    store: EventStore = PostgresEventStore(database)
    if HAS_SUBSCRIPTION:
        doorbell = await stack.enter_async_context(log.LogDoorbell(database, on_ring=lambda: None))
        store = WatchedEventStore(store, on_append=doorbell.ring)
    numbers, endless = count(1), cycle(orders())

    async def append() -> int:
        result = await store.append(f"order-{next(numbers)}", [next(endless)], expected_version=NO_STREAM)
        return result.global_position

    if HAS_SUBSCRIPTION:
        return Tail(HEADWATER, "subscription", database.dsn, append)
    return Tail(POLLING, "poll", database.dsn, append)


async def _listening_tail(servers: Servers, stack: AsyncExitStack) -> Tail:
    database = await stack.enter_async_context(servers.database())
    async with database.connection() as connection:
        await connection.execute(plain_table.CREATE)
    return Tail(LISTENING, "listen", database.dsn, await _notifying_append(database, stack))


async def _notifying_append(database: Database, stack: AsyncExitStack) -> Append:
    numbers, endless, metadata = count(1), cycle(encoded(orders())), plain_table.new_metadata()
    free: asyncio.Queue[PreparedStatement[asyncpg.Record]] = asyncio.Queue()
    for _ in range(WRITERS):
        connection = await neighbour_connection(database, stack)
        free.put_nowait(await connection.prepare(APPEND_AND_NOTIFY))

    async def append() -> int:
        insert = await free.get()
        try:
            return int(await insert.fetchval(next(numbers), 1, "OrderPlaced", next(endless), metadata, uuid7()))
        finally:
            free.put_nowait(insert)

    return append


async def _peer_tail(servers: Servers, stack: AsyncExitStack) -> Tail:
    database = await stack.enter_async_context(servers.database())
    other, endless = stack.enter_context(peer(database.dsn)), cycle(orders())
    threads = stack.enter_context(ThreadPoolExecutor(PEER_CONNECTIONS_MAX))

    def put() -> int:
        return other.store.put(peer_events(uuid7(), [next(endless)]))[0].notification.id

    async def append() -> int:
        return await asyncio.get_running_loop().run_in_executor(threads, put)

    return Tail(PEER, "peer", database.dsn, append, PEER_APPENDS_PER_SECOND)
