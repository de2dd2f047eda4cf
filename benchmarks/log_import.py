"""Import: the file of another log into an empty one, beside binary COPY of the same rows into a table with the same columns and indexes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, Final

import asyncpg

import headwater.eventstore
from benchmarks import plain_table
from benchmarks.bulk import EVENTS_PER_STREAM, fill_log_in_bulk
from benchmarks.measure import HEADWATER, Comparison, Comparisons, Contender, Pending, Sample
from benchmarks.orders import mean_bytes, orders
from benchmarks.scale import Scale
from benchmarks.servers import Servers, neighbour_connection

BENCH: Final = "import"
COPY: Final = "raw binary COPY"
READ_ROWS: Final = f"SELECT {', '.join(plain_table.COLUMNS)} FROM headwater.events ORDER BY global_position"

export_events: Any = getattr(headwater.eventstore, "export_events", None)
import_events: Any = getattr(headwater.eventstore, "import_events", None)


async def compare_import(servers: Servers, scale: Scale) -> Comparisons:
    """The same events in each turn, however long that takes; databases are made and tables emptied between the turns."""
    conditions = {
        "events": scale.import_events,
        "events_per_stream": EVENTS_PER_STREAM,
        "bytes": mean_bytes(orders()),
        "durable": True,
        "format": "json lines",
    }
    if export_events is None or import_events is None:
        yield Pending(BENCH, "import_events is not in this version", conditions)
        return
    async with AsyncExitStack() as stack:
        file = Path(stack.enter_context(TemporaryDirectory(prefix="headwater-bench-"))) / "log.jsonl"
        source = await stack.enter_async_context(servers.database())
        await fill_log_in_bulk(source, scale.import_events)
        await export_events(source, file)
        async with source.connection() as connection:
            rows = await connection.fetch(READ_ROWS)
        contenders = [
            Contender(HEADWATER, _headwater_import(servers, file, scale.import_events)),
            Contender(COPY, await _raw_copy(servers, stack, rows)),
        ]
        yield Comparison(BENCH, conditions, contenders)


def _headwater_import(servers: Servers, file: Path, event_count: int) -> Sample:
    async def sample(_seconds: float) -> float:
        """From opening the file to the last commit."""
        async with servers.database() as database:
            began = perf_counter()
            await import_events(database, file)
            rate = event_count / (perf_counter() - began)
            async with database.connection() as connection:
                stored = await connection.fetchval("SELECT count(*) FROM headwater.events")
            assert stored == event_count, f"{stored} of {event_count} events were imported"
        return rate

    return sample


async def _raw_copy(servers: Servers, stack: AsyncExitStack, rows: Sequence[asyncpg.Record]) -> Sample:
    """Rows that are at hand, in one COPY, durable when it returns."""
    database = await stack.enter_async_context(servers.database())
    connection = await neighbour_connection(database, stack)
    await connection.execute(plain_table.CREATE)

    async def sample(_seconds: float) -> float:
        await connection.execute("TRUNCATE plain_events")
        began = perf_counter()
        await connection.copy_records_to_table("plain_events", records=rows, columns=plain_table.COLUMNS)
        return len(rows) / (perf_counter() - began)

    return sample
