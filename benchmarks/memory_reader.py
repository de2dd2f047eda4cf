"""`python -m benchmarks.memory_reader DSN COUNT`: reads and decodes that many events of the log and prints their count and its own peak memory in MB."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from benchmarks.loop import run_loop
from benchmarks.orders import OrderPlaced
from headwater.eventstore import PostgresEventStore
from headwater.messages import EventRegistry
from headwater.postgres import Database

PROCESS_STATUS: Final = Path("/proc/self/status")


async def read(dsn: str, event_count: int) -> int:
    """Page by page, keeping nothing."""
    registry, after, done = EventRegistry([OrderPlaced]), 0, 0
    async with Database(dsn) as database:
        store = PostgresEventStore(database)
        while done < event_count and (events := (await store.read_log(after=after)).events):
            for recorded in events[: event_count - done]:
                registry.decode(recorded)
                done += 1
            after = events[-1].global_position
    return done


def peak_megabytes() -> float:
    """The most that this process ever held in memory."""
    if PROCESS_STATUS.exists():
        # Not getrusage: after a fork its peak begins with the parent's.
        peak = next(line for line in PROCESS_STATUS.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM:"))
        return int(peak.split()[1]) / 1024
    import resource

    divisor = 1024 * 1024 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / divisor


if __name__ == "__main__":
    event_count = run_loop(read(sys.argv[1], int(sys.argv[2])))
    print(event_count, round(peak_megabytes(), 1), flush=True)
