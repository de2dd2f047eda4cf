"""Short words for appending and reading in these tests."""

from __future__ import annotations

from headwater.eventstore import PostgresEventStore
from headwater.messages import ANY, Event
from headwater.postgres import CallerConnection

# Not pg_stat_activity, which stands still inside a transaction.
SOMEBODY_WAITS_FOR_US = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))"


class OrderPlaced(Event):
    sku: str = "chai"


async def append(
    store: PostgresEventStore, connection: CallerConnection | None = None, stream_name: str = "order-1", count: int = 1
) -> int:
    """The position of the last of `count` events appended wherever the stream ends."""
    result = await store.append(stream_name, [OrderPlaced()] * count, expected_version=ANY, connection=connection)
    return result.global_position


async def read_positions(store: PostgresEventStore, after: int = 0) -> list[int]:
    """What a reader of the log sees now."""
    return [event.global_position for event in (await store.read_log(after=after)).events]


async def versions(store: PostgresEventStore, stream_name: str) -> list[int]:
    return [event.version async for event in store.read_stream(stream_name)]
