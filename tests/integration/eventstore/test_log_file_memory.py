"""A log of any length is exported and imported in the same memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from headwater.testing import MigratedDatabases

SHORT, LONG = 3_000, 30_000
GROWTH_BYTES_MAX = 24 * 1024 * 1024
PROGRAM = """
import asyncio, resource, sys
from pathlib import Path
from headwater.eventstore import export_events, import_events
from headwater.postgres import Database

async def main():
    async with Database(sys.argv[1]) as database:
        done = await import_events(database, Path(sys.argv[2]))
        await export_events(database, Path(sys.argv[3]))
    print(done.stored_count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)

asyncio.run(main())
"""


def _peak_bytes(databases: MigratedDatabases, folder: Path, event_count: int, suffix: str) -> int:
    source = folder / f"{event_count}.jsonl"
    with source.open("w") as file:
        file.write('{"headwater_log": 1}\n')
        for n in range(event_count):
            members = {"stream_name": f"order-{n}", "version": 1, "type": "OrderPlaced", "data": {"n": n, "x": "x" * 2_000}}
            file.write(
                json.dumps({**members, "event_id": f"0199a6c0-5b1e-7c3a-9d4e-{n:012x}", "recorded_at": "2026-01-31T12:00:00Z"}) + "\n"
            )
        file.write(json.dumps({"end_of_log": True, "event_count": event_count}) + "\n")
    with databases.fresh() as dsn:
        target = folder / f"{event_count}-out{suffix}"
        done = subprocess.run([sys.executable, "-c", PROGRAM, dsn, source, target], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    stored, peak = map(int, done.stdout.split())
    assert stored == event_count
    return peak


@pytest.mark.parametrize("suffix", [".jsonl", ".avro"])
def test_memory_does_not_grow_with_the_log(headwater_databases: MigratedDatabases, tmp_path: Path, suffix: str) -> None:
    """60 MB more in the file, less than half of that in memory: a batch or two, and what the allocator keeps."""
    short, long = (_peak_bytes(headwater_databases, tmp_path, count, suffix) for count in (SHORT, LONG))
    assert long - short < GROWTH_BYTES_MAX, f"{short:,} bytes for {SHORT:,} events, {long:,} for {LONG:,}"
