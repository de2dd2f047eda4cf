"""Poison: how long events take from append to committed effect, while one stream among thousands fails every time."""

from __future__ import annotations

from typing import Final

from benchmarks.end_to_end import Latencies, end_to_end_service
from benchmarks.measure import P99, Comparison, Comparisons, Contender
from benchmarks.orders import mean_bytes, orders
from benchmarks.scale import Scale
from benchmarks.servers import Servers

APPENDS_PER_SECOND: Final = 250
"""Well below what a small machine can do, so that it is not the machine's own queue that is measured."""
POISON_EVERY: Final = 100
"""One append in so many goes to the stream that fails."""


async def compare_poison(servers: Servers, scale: Scale) -> Comparisons:
    """The same appends to as many streams, with and without the stream that fails; its own events are not counted."""
    async with end_to_end_service(servers) as poisoned, end_to_end_service(servers) as healthy:
        yield Comparison(
            "poison",
            {"events_per_second": APPENDS_PER_SECOND, "bytes": mean_bytes(orders()), "durable": True},
            [
                Contender("with a poison message", Latencies(poisoned, APPENDS_PER_SECOND, scale, poison_every=POISON_EVERY).sample),
                Contender("without", Latencies(healthy, APPENDS_PER_SECOND, scale).sample),
            ],
            metrics=(P99,),
        )
