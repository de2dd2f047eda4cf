"""Log read: the whole log from its beginning, page by page, as typed events; Headwater through a subscription, as a replay reads it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from itertools import cycle, islice
from typing import Final

from benchmarks import plain_table
from benchmarks.measure import HEADWATER, Call, Comparison, Comparisons, Contender, in_loops, in_threads
from benchmarks.orders import OrderPlaced, mean_bytes, orders
from benchmarks.peer import PEER, Peer, peer, peer_events
from benchmarks.scale import Scale
from benchmarks.servers import Servers, neighbour_connection
from headwater.eventstore import EventStore, PostgresEventStore, Subscription
from headwater.messages import NO_STREAM, EventRegistry
from headwater.postgres import Database
from headwater.randomness import uuid7

EVENTS_PER_STREAM: Final = 10
PAGE_SIZE: Final = 1_000


async def fill_log(database: Database, events: tuple[OrderPlaced, ...], event_count: int, *, first_stream: int = 1) -> int:
    """Append that many in one transaction, to streams of `EVENTS_PER_STREAM`; returns the last position."""
    store, endless, position = PostgresEventStore(database), cycle(events), 0
    category = type(events[0]).event_category
    async with database.transaction() as connection:
        for number in range(first_stream, first_stream + event_count // EVENTS_PER_STREAM):
            page = list(islice(endless, EVENTS_PER_STREAM))
            result = await store.append(f"{category}-{number}", page, expected_version=NO_STREAM, connection=connection)
            position = result.global_position
    return position


async def compare_log_read(servers: Servers, scale: Scale) -> Comparisons:
    """Pages of typed events beside the same pages fetched and validated with nothing around it."""
    events = orders()
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(servers.database())
        await fill_log(database, events, scale.log_events)
        raw_page = await _raw_page(database, stack)
        own = await stack.enter_async_context(servers.database())
        other = stack.enter_context(peer(own.dsn))
        _fill_peer(other, events, scale.log_events)
        yield Comparison(
            bench="log_read",
            conditions={"callers": 1, "batch": PAGE_SIZE, "bytes": mean_bytes(events), "durable": True, "events": scale.log_events},
            contenders=[
                Contender(HEADWATER, in_loops([_headwater_page(PostgresEventStore(database), scale.log_events)])),
                Contender("raw asyncpg", in_loops([_round_and_round(raw_page)])),
                Contender(PEER, in_threads([_peer_round_and_round(other)])),
            ],
        )


Page = Callable[[int], Awaitable[tuple[int, int]]]
"""Reads the page after a position; returns how many events it had and the last one's position."""


def _headwater_page(store: EventStore, event_count: int) -> Call:
    registry = EventRegistry([OrderPlaced])
    subscription: Subscription | None = None
    read_count = 0

    async def page() -> int:
        nonlocal subscription, read_count
        if subscription is None:
            subscription, read_count = Subscription(store, batch_size_max=PAGE_SIZE), 0
        batch = await anext(subscription)
        for recorded in batch.events:
            registry.decode(recorded)
        read_count += len(batch.events)
        if read_count >= event_count:
            await subscription.close()
            subscription = None
        return len(batch.events)

    return page


async def _raw_page(database: Database, stack: AsyncExitStack) -> Page:
    connection = await neighbour_connection(database, stack)
    await connection.execute(plain_table.CREATE)
    await connection.execute(plain_table.COPY_FROM_LOG)
    await connection.execute("VACUUM (ANALYZE, FREEZE)")
    fetch = await connection.prepare(plain_table.READ)

    async def page(after: int) -> tuple[int, int]:
        rows = await fetch.fetch(after, PAGE_SIZE)
        for row in rows:
            OrderPlaced.model_validate_json(row["data"])
        return len(rows), rows[-1]["global_position"] if rows else 0

    return page


def _round_and_round(page: Page) -> Call:
    after = 0

    async def read() -> int:
        nonlocal after
        event_count, after = await page(after)
        return event_count

    return read


def _fill_peer(other: Peer, events: tuple[OrderPlaced, ...], event_count: int) -> None:
    endless = cycle(events)
    for _ in range(event_count // PAGE_SIZE):
        streams = (peer_events(uuid7(), islice(endless, EVENTS_PER_STREAM)) for _ in range(PAGE_SIZE // EVENTS_PER_STREAM))
        other.store.put([event for stream in streams for event in stream])
    with other.recorder.datastore.get_connection() as connection:
        connection.execute("VACUUM (ANALYZE, FREEZE)")


def _peer_round_and_round(other: Peer) -> Callable[[], int]:
    start = 1

    def read() -> int:
        nonlocal start
        found = other.recorder.select_notifications(start=start, limit=PAGE_SIZE)
        for notification in found:
            other.mapper.to_domain_event(notification)
        start = found[-1].id + 1 if found else 1
        return len(found)

    return read
