"""Does it pay to split the log into partitions by position? Writes log_partitions.json beside it.

    python docs/evidence/log_partitions.py [events] [events a partition]          10000000 1000000

Two tables with the columns and the indexes of headwater.events, one of them partitioned by ranges of positions, filled with the same events
in streams of ten. No unique index spans partitions by position (rule 12), so the partitioned log must look into every partition for an event
id and for a stream's last version; the plain one looks into one index. Measured in turns, on one embedded PostgreSQL, durable:

- append: the three statements of an append (the id, the version, the insert), 1,000 in one transaction, so that no commit is in it;
- the same for streams that have no event yet, whose version no partition has;
- a page of the log (1,000 events) at random places, and at its end;
- a stream of ten events, wherever it lies;
- what ages cheaply: dropping the oldest tenth, by DELETE and VACUUM, or by detaching a partition.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import random
import statistics
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import asyncpg

from headwater.embedded import EmbeddedPostgres
from headwater.testing import MigratedDatabases

ROUNDS = 5
APPENDS = 1_000
READS = 200
CHUNK = 250_000
COLUMNS = """
    global_position bigint NOT NULL, stream_id bigint NOT NULL, version bigint NOT NULL, type text NOT NULL, data jsonb NOT NULL,
    metadata jsonb NOT NULL, event_id uuid NOT NULL, recorded_at timestamptz NOT NULL
"""
FILL = """
INSERT INTO {table}
SELECT g, (g - 1) / 10 + 1, (g - 1) % 10 + 1, 'OrderPlaced', jsonb_build_object('sku', 'chai', 'quantity', g, 'note', repeat('x', 150)),
       jsonb_build_object('correlation_id', md5(g::text)), md5(g::text)::uuid, now()
  FROM generate_series($1::bigint, $2::bigint) AS g
"""
APPEND = """
CREATE FUNCTION append_{table}(this_stream bigint, id uuid) RETURNS void LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE last_version bigint;
BEGIN
    IF EXISTS (SELECT FROM {table} WHERE event_id = id) THEN RETURN; END IF;
    SELECT coalesce(max(version), 0) INTO last_version FROM {table} WHERE stream_id = this_stream;
    INSERT INTO {table} VALUES (nextval('{table}_positions'), this_stream, last_version + 1, 'OrderPlaced',
        '{{"sku": "chai", "quantity": 3, "note": "{note}"}}', '{{"correlation_id": "c"}}', id, clock_timestamp());
END $$
"""
PAGE = "SELECT *, data::text FROM {table} WHERE global_position > $1 AND global_position <= $2 ORDER BY global_position LIMIT 1000"
STREAM = "SELECT *, data::text FROM {table} WHERE stream_id = $1 AND version >= 1 ORDER BY version LIMIT 1000"


async def build(connection: asyncpg.Connection, events: int, size: int) -> None:
    await connection.execute(f"CREATE TABLE plain ({COLUMNS}, PRIMARY KEY (global_position), UNIQUE (stream_id, version), UNIQUE (event_id))")
    await connection.execute(f"CREATE TABLE split ({COLUMNS}, PRIMARY KEY (global_position)) PARTITION BY RANGE (global_position)")
    # One partition more than is filled: that is where appends go.
    for number in range(events // size + 1):
        await connection.execute(f"CREATE TABLE split_{number} PARTITION OF split FOR VALUES FROM ({number * size + 1}) TO ({(number + 1) * size + 1})")
        await connection.execute(f"ALTER TABLE split_{number} ADD UNIQUE (stream_id, version), ADD UNIQUE (event_id)")
    for table in ("plain", "split"):
        for begin in range(1, events + 1, CHUNK):
            await connection.execute(FILL.format(table=table), begin, min(begin + CHUNK - 1, events))
            print(f"{table}: {min(begin + CHUNK - 1, events):,} events", file=sys.stderr)
        await connection.execute(f"CREATE SEQUENCE {table}_positions START {events + 1}")
        await connection.execute(APPEND.format(table=table, note="x" * 150))
        await connection.execute(f"VACUUM (ANALYZE, FREEZE) {table}")
    await connection.execute("CHECKPOINT")


async def append_microseconds(connection: asyncpg.Connection, table: str, streams: list[int]) -> float:
    statement = await connection.prepare(f"SELECT append_{table}(s, i) FROM unnest($1::bigint[], $2::uuid[]) AS n(s, i)")
    ids = [uuid.uuid4() for _ in streams]
    async with connection.transaction():
        began = time.perf_counter()
        await statement.fetch(streams, ids)
        return (time.perf_counter() - began) / len(streams) * 1e6


async def read_microseconds(statement: Any, calls: list[tuple[int, ...]]) -> float:
    began = time.perf_counter()
    for call in calls:
        await statement.fetch(*call)
    return (time.perf_counter() - began) / len(calls) * 1e6


async def measure(connection: asyncpg.Connection, events: int) -> dict[str, dict[str, float]]:
    chance = random.Random(1)
    took: dict[str, dict[str, list[float]]] = {}
    statements = {
        table: (await connection.prepare(PAGE.format(table=table)), await connection.prepare(STREAM.format(table=table)))
        for table in ("plain", "split")
    }
    last = events
    for _ in range(ROUNDS + 1):
        old = [chance.randrange(1, events // 10) for _ in range(APPENDS)]
        new = [events + last + n for n in range(APPENDS)]
        last += APPENDS
        places = [(chance.randrange(0, events - 1_000), events) for _ in range(READS)]
        streams = [(chance.randrange(1, events // 10),) for _ in range(READS)]
        for table, (page, stream) in statements.items():
            for name, value in {
                "append to a stream, µs": await append_microseconds(connection, table, old),
                "append to a new stream, µs": await append_microseconds(connection, table, new),
                "page of 1,000 anywhere, µs": await read_microseconds(page, places),
                "page at the end, µs": await read_microseconds(page, [(events - 10, events)] * READS),
                "stream of ten, µs": await read_microseconds(stream, streams),
            }.items():
                took.setdefault(name, {}).setdefault(table, []).append(value)
    # The first round warms up.
    return {
        name: {
            **{table: round(statistics.median(values[1:]), 1) for table, values in tables.items()},
            "split / plain": round(statistics.median(s / p for s, p in zip(tables["split"][1:], tables["plain"][1:], strict=True)), 2),
        }
        for name, tables in took.items()
    }


async def age(connection: asyncpg.Connection, size: int) -> dict[str, float]:
    """Seconds to take the oldest partition's events out."""
    began = time.perf_counter()
    await connection.execute("DELETE FROM plain WHERE global_position <= $1", size)
    await connection.execute("VACUUM plain")
    deleted = time.perf_counter() - began
    began = time.perf_counter()
    await connection.execute("ALTER TABLE split DETACH PARTITION split_0")
    return {"plain": round(deleted, 2), "split": round(time.perf_counter() - began, 3)}


async def main() -> None:
    events = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000
    size = int(sys.argv[2]) if len(sys.argv) > 2 else events // 10
    with EmbeddedPostgres() as server:
        connection = await asyncpg.connect(MigratedDatabases(server.dsn).create())
        await build(connection, events, size)
        found = await measure(connection, events)
        sizes = {
            "plain": await connection.fetchval("SELECT pg_total_relation_size('plain')"),
            "split": await connection.fetchval("SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits WHERE inhparent = 'split'::regclass"),
        }
        summary = {
            "events": events,
            "partitions": events // size + 1,
            "measured": found,
            "oldest partition out, s": await age(connection, size),
            "MiB": {table: round(int(size_bytes) / 1024**2) for table, size_bytes in sizes.items()},
            "rounds": ROUNDS,
            "machine": {"cores": os.cpu_count(), "system": platform.system(), "python": platform.python_version()},
        }
        await connection.close()
    text = json.dumps(summary, indent=1, ensure_ascii=False)
    Path(__file__).with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    print(text)


asyncio.run(main())
