"""How much memory a reader of the whole log needs, be the log as long as it may."""

from __future__ import annotations

from typing import Final

from benchmarks.bulk import fill_log_in_bulk
from benchmarks.measure import HEADWATER, Comparison, Comparisons, Contender, Metric, Sample
from benchmarks.orders import mean_bytes, orders
from benchmarks.scale import Scale
from benchmarks.servers import Servers
from benchmarks.subprocesses import next_line, python_process
from headwater.postgres import Database

PEAK: Final = Metric("peak", "MB")
SHORT_SHARE: Final = 100
"""The neighbour reads one event of so many."""


async def compare_reader_memory(servers: Servers, scale: Scale) -> Comparisons:
    """The peak of a process that reads and decodes every event, beside one that stops early: they should differ by next to nothing."""
    async with servers.database() as database:
        await fill_log_in_bulk(database, scale.reader_events)
        yield Comparison(
            bench="reader_memory",
            conditions={"events": scale.reader_events, "bytes": mean_bytes(orders())},
            contenders=[
                Contender(HEADWATER, _peak(database, scale.reader_events)),
                Contender("headwater, a short log", _peak(database, scale.reader_events // SHORT_SHARE)),
            ],
            rounds=1,
            metrics=(PEAK,),
        )


def _peak(database: Database, event_count: int) -> Sample:
    async def sample(_seconds: float) -> float:
        """As long as the log is."""
        async with python_process("benchmarks.memory_reader", database.dsn, str(event_count)) as process:
            read, peak = (await next_line(process)).split()
        assert int(read) == event_count, f"{read} of {event_count} events were read"
        return float(peak)

    return sample
