"""Import: the events of another log into an empty one, beside binary COPY of the same rows into a table with the same columns and indexes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from itertools import cycle, islice
from time import perf_counter
from typing import Any, Final

import headwater.eventstore
from benchmarks import plain_table
from benchmarks.log_read import EVENTS_PER_STREAM
from benchmarks.measure import HEADWATER, Comparison, Comparisons, Contender, Pending, Sample
from benchmarks.orders import encoded, mean_bytes, orders
from benchmarks.scale import Scale
from benchmarks.servers import Servers, neighbour_connection
from headwater.messages import CORRELATION_ID, RecordedEvent
from headwater.randomness import uuid7

BENCH: Final = "import"
COPY: Final = "raw binary COPY"
FIRST_RECORDED_AT: Final = datetime(2026, 1, 1, tzinfo=UTC)

import_events: Any = getattr(headwater.eventstore, "import_events", None)


async def compare_import(servers: Servers, scale: Scale) -> Comparisons:
    """The same events each turn, however long that takes; databases are made and tables emptied between turns."""
    events = exported_events(scale.import_events)
    conditions = {"events": len(events), "events_per_stream": EVENTS_PER_STREAM, "bytes": mean_bytes(orders()), "durable": True}
    if import_events is None:
        yield Pending(BENCH, "import_events is not in this version", conditions)
        return
    async with AsyncExitStack() as stack:
        yield Comparison(
            bench=BENCH,
            conditions=conditions,
            contenders=[Contender(HEADWATER, _headwater_import(servers, events)), Contender(COPY, await raw_copy(servers, stack, events))],
        )


def exported_events(event_count: int) -> list[RecordedEvent]:
    """What the other log holds."""
    made: list[RecordedEvent] = []
    for position, data in enumerate(islice(cycle(encoded(orders())), event_count), start=1):
        stream, version = divmod(position - 1, EVENTS_PER_STREAM)
        event_id = uuid7()
        made.append(
            RecordedEvent(
                global_position=position,
                stream_name=f"order-{stream + 1}",
                version=version + 1,
                type="OrderPlaced",
                data=data,
                metadata={CORRELATION_ID: str(event_id)},
                event_id=event_id,
                recorded_at=FIRST_RECORDED_AT + timedelta(milliseconds=position),
            )
        )
    return made


def _headwater_import(servers: Servers, events: list[RecordedEvent]) -> Sample:
    async def one_by_one() -> AsyncIterator[RecordedEvent]:
        for event in events:
            yield event

    async def sample(_seconds: float) -> float:
        async with servers.database() as database:
            began = perf_counter()
            await import_events(database, one_by_one())
            rate = len(events) / (perf_counter() - began)
            async with database.connection() as connection:
                assert await connection.fetchval("SELECT count(*) FROM headwater.events") == len(events)
        return rate

    return sample


async def raw_copy(servers: Servers, stack: AsyncExitStack, events: list[RecordedEvent]) -> Sample:
    """Rows that are ready to be sent, in one COPY that commits at its end."""
    database = await stack.enter_async_context(servers.database())
    connection = await neighbour_connection(database, stack)
    await connection.execute(plain_table.CREATE)
    rows = [
        (
            *(event.global_position, (event.global_position - 1) // EVENTS_PER_STREAM + 1, event.version, event.type, event.data),
            *(f'{{"{CORRELATION_ID}":"{event.event_id}"}}', event.event_id, event.recorded_at),
        )
        for event in events
    ]

    async def sample(_seconds: float) -> float:
        await connection.execute("TRUNCATE plain_events")
        began = perf_counter()
        await connection.copy_records_to_table("plain_events", records=rows, columns=plain_table.COLUMNS)
        return len(rows) / (perf_counter() - began)

    return sample
