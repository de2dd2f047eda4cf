"""Log read: the whole log from its beginning, page by page, as typed events."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import cycle, islice
from typing import Final

from benchmarks import plain_table
from benchmarks.measure import HEADWATER, Comparison, Comparisons, Contender, in_loops
from benchmarks.orders import OrderPlaced, mean_bytes, orders
from benchmarks.servers import Servers
from headwater.eventstore import EventStore, PostgresEventStore
from headwater.messages import NO_STREAM, EventRegistry
from headwater.postgres import Database

EVENT_COUNT: Final = 20_000
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


async def compare_log_read(servers: Servers) -> Comparisons:
    """Pages of typed events beside the same pages fetched and validated with nothing around it."""
    events = orders()
    async with servers.database() as database:
        await fill_log(database, events, EVENT_COUNT)
        raw = await database.connect()
        try:
            await raw.execute(plain_table.CREATE)
            await raw.execute(plain_table.COPY_FROM_LOG)
            await raw.execute("VACUUM (ANALYZE, FREEZE)")
            fetch = await raw.prepare(plain_table.READ)

            async def raw_page(after: int) -> tuple[int, int]:
                rows = await fetch.fetch(after, PAGE_SIZE)
                for row in rows:
                    OrderPlaced.model_validate_json(row["data"])
                return len(rows), rows[-1]["global_position"] if rows else 0

            yield Comparison(
                bench="log_read",
                conditions={"callers": 1, "batch": PAGE_SIZE, "bytes": mean_bytes(events), "durable": True, "events": EVENT_COUNT},
                contenders=[
                    Contender(HEADWATER, in_loops([_round_and_round(_headwater_page(PostgresEventStore(database)))])),
                    Contender("raw asyncpg", in_loops([_round_and_round(raw_page)])),
                ],
            )
        finally:
            await raw.close()


Page = Callable[[int], Awaitable[tuple[int, int]]]
"""Reads the page after a position; returns how many events it had and the last one's position."""


def _headwater_page(store: EventStore) -> Page:
    registry = EventRegistry([OrderPlaced])

    async def page(after: int) -> tuple[int, int]:
        found = await store.read_log(after=after, limit=PAGE_SIZE)
        for recorded in found.events:
            registry.decode(recorded)
        return len(found.events), found.events[-1].global_position if found.events else 0

    return page


def _round_and_round(page: Page) -> Callable[[], Awaitable[int]]:
    after = 0

    async def read() -> int:
        nonlocal after
        event_count, after = await page(after)
        return event_count

    return read
