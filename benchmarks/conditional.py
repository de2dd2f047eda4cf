"""Conditional append: a decision over a query by tag, refused if somebody else's event matched meanwhile; beside itself without the condition."""

from __future__ import annotations

from dataclasses import replace
from itertools import count, cycle
from typing import Any, Final

import headwater.eventstore
from benchmarks.measure import HEADWATER, Call, Comparison, Comparisons, Contender, Pending, in_loops
from benchmarks.orders import mean_bytes, orders
from benchmarks.scale import Scale
from benchmarks.servers import Servers
from headwater.eventstore import PostgresEventStore
from headwater.messages import NO_STREAM, NewEvent

BENCH: Final = "conditional"
UNCONDITIONAL: Final = "unconditional"
CALLERS: Final = (1, 16)

StreamAppend: Any = getattr(headwater.eventstore, "StreamAppend", None)
EventQuery: Any = getattr(headwater.eventstore, "EventQuery", None)
AppendCondition: Any = getattr(headwater.eventstore, "AppendCondition", None)


async def compare_conditional(servers: Servers, _scale: Scale) -> Comparisons:
    """Read what matches a tag that nobody else uses, then append an event with that tag; both sides read, one lays down the condition."""
    for callers in CALLERS:
        conditions = {"callers": callers, "batch": 1, "bytes": mean_bytes(orders()), "durable": True}
        if None in (StreamAppend, EventQuery, AppendCondition) or not hasattr(PostgresEventStore, "read_matching"):
            yield Pending(BENCH, "conditional append (AppendCondition, read_matching) is not in this version", conditions)
            continue
        async with servers.database(connections_max=16) as database:
            store, numbers = PostgresEventStore(database), count(1)
            yield Comparison(
                bench=BENCH,
                conditions=conditions,
                contenders=[
                    Contender(HEADWATER, in_loops([_decide(store, numbers, conditional=True) for _ in range(callers)])),
                    Contender(UNCONDITIONAL, in_loops([_decide(store, numbers, conditional=False) for _ in range(callers)])),
                ],
            )


def _decide(store: Any, numbers: count[int], *, conditional: bool) -> Call:
    endless = cycle(orders())

    async def append() -> int:
        number = next(numbers)
        tag = f"order:{number}"
        event: Any = replace(NewEvent.of(next(endless)), tags=(tag,))
        query = EventQuery(types=(event.type,), tags=(tag,))
        matching = await store.read_matching(query)
        assert not matching.events, "nobody else uses this tag"
        condition = AppendCondition(query, matching.token) if conditional else None
        await store.append_to_streams([StreamAppend(f"order-{number}", [event], NO_STREAM)], condition=condition)
        return 1

    return append
