"""Raw inserts in groups like those that Headwater has just gathered, on as many connections as it used."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from itertools import count, cycle, islice
from time import perf_counter
from typing import Final

import asyncpg

from benchmarks import plain_table
from benchmarks.measure import Sample
from benchmarks.orders import encoded, orders
from benchmarks.servers import neighbour_connection
from headwater.postgres import Database
from headwater.randomness import uuid7

CONNECTIONS_MAX: Final = 16

# Events of one transaction were gathered together; the id is that of the row's writer.
_COUNT_GROUPS: Final = """
SELECT count(*) AS event_count, count(DISTINCT xmin::text) AS group_count, max(global_position) AS position
  FROM headwater.events
 WHERE global_position > $1
"""
_COUNT_WRITERS: Final = """
SELECT count(*)
  FROM pg_stat_activity
 WHERE datname = current_database()
   AND application_name = 'headwater'
   AND state_change > $1
"""


class ObservedGroups:
    """Sees after each of Headwater's turns how it wrote."""

    def __init__(self, observer: asyncpg.Connection[asyncpg.Record]) -> None:
        self._observer, self._position = observer, 0
        self._looked_at = datetime.min.replace(tzinfo=UTC)
        self.group_size, self.connection_count = 1, 1

    async def look(self) -> None:
        """Take in what was written since the last look."""
        counts = await self._observer.fetchrow(_COUNT_GROUPS, self._position)
        assert counts is not None
        if counts["event_count"]:
            writers = await self._observer.fetchval(_COUNT_WRITERS, self._looked_at)
            self.group_size = max(1, round(counts["event_count"] / counts["group_count"]))
            self.connection_count = min(max(1, writers), CONNECTIONS_MAX)
            self._position = counts["position"]
        self._looked_at = await self._observer.fetchval("SELECT clock_timestamp()")


async def grouped_inserts(database: Database, stack: AsyncExitStack, numbers: count[int]) -> Sample:
    """`INSERT … SELECT unnest` of JSON that was encoded beforehand, each group durable before that connection sends the next."""
    groups = ObservedGroups(await neighbour_connection(database, stack))
    connections: list[asyncpg.Connection[asyncpg.Record]] = []
    endless, metadata = cycle(encoded(orders())), plain_table.new_metadata()

    async def sample(seconds: float) -> float:
        await groups.look()
        while len(connections) < groups.connection_count:
            connections.append(await neighbour_connection(database, stack))
        size = groups.group_size
        versions, types, metadatas = [1] * size, ["OrderPlaced"] * size, [metadata] * size

        async def work(connection: asyncpg.Connection[asyncpg.Record], deadline: float) -> int:
            insert, done = await connection.prepare(plain_table.INSERT_GROUP), 0
            while not done or perf_counter() < deadline:
                ids = [uuid7() for _ in range(size)]
                await insert.fetchval(list(islice(numbers, size)), versions, types, list(islice(endless, size)), metadatas, ids)
                done += size
            return done

        began = perf_counter()
        counts = await asyncio.gather(*(work(connection, began + seconds) for connection in connections[: groups.connection_count]))
        return sum(counts) / (perf_counter() - began)

    return sample
