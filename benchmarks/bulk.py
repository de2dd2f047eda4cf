"""A log of any length, filled within the server: millions of events in minutes, with tables and indexes as appends would have left them.

Events of a stream stand apart in the log, as in life: a thousand streams grow side by side until each has ten events, then the next thousand.
"""

from __future__ import annotations

from typing import Final

import asyncpg

from benchmarks.orders import encoded, orders
from headwater.postgres import Database

EVENTS_PER_STREAM: Final = 10
STREAMS_SIDE_BY_SIDE: Final = 1_000
CHUNK_EVENTS: Final = 500_000
"""In one transaction."""

_CREATE_SAMPLES: Final = """
CREATE UNLOGGED TABLE samples (number bigint PRIMARY KEY, data jsonb NOT NULL);
"""
_FILL_SAMPLES: Final = (
    "INSERT INTO samples (number, data) SELECT n.number - 1, n.data FROM unnest($1::jsonb[]) WITH ORDINALITY AS n(data, number)"
)
_FILL_STREAMS: Final = """
INSERT INTO headwater.streams (stream_id, stream_name) OVERRIDING SYSTEM VALUE
SELECT n, 'order-' || n
  FROM generate_series($1::bigint, $2::bigint) AS n
"""
# Ids are version 7, a thousand to the millisecond; so the index on them grows at its right end, as it does under appends.
_FILL_EVENTS: Final = """
INSERT INTO headwater.events (global_position, stream_id, version, type, data, metadata, event_id, recorded_at)
SELECT n,
       (n - 1) / ($3::bigint * $4::bigint) * $4 + (n - 1) % $4 + 1,
       (n - 1) % ($3 * $4) / $4 + 1,
       'OrderPlaced',
       samples.data,
       jsonb_build_object('correlation_id', ids.event_id::text),
       ids.event_id,
       timestamptz '2026-01-01' + n * interval '1 microsecond'
  FROM generate_series($1::bigint, $2::bigint) AS n
 CROSS JOIN LATERAL (SELECT (lpad(to_hex(1767225600000 + n / 1000), 12, '0') || '7' || lpad(to_hex(n % 1000), 3, '0')
                             || '8' || substr(md5(n::text), 1, 15))::uuid AS event_id) AS ids
  JOIN samples ON samples.number = n % $5::bigint
 ORDER BY n
"""
_MOVE_SEQUENCES: Final = """
SELECT setval('headwater.global_position_seq', $1::bigint),
       setval(pg_get_serial_sequence('headwater.streams', 'stream_id'), $2::bigint)
"""


async def fill_log_in_bulk(database: Database, event_count: int) -> int:
    """Fill an empty log; returns how many streams it has."""
    stream_count = -(-event_count // (EVENTS_PER_STREAM * STREAMS_SIDE_BY_SIDE)) * STREAMS_SIDE_BY_SIDE
    connection = await database.connect()
    try:
        await connection.execute(_CREATE_SAMPLES)
        samples = encoded(orders())
        await connection.execute(_FILL_SAMPLES, samples)
        await connection.execute(_FILL_STREAMS, 1, stream_count)
        for first in range(1, event_count + 1, CHUNK_EVENTS):
            await _fill_chunk(connection, first, min(first + CHUNK_EVENTS - 1, event_count), len(samples))
        await connection.execute(_MOVE_SEQUENCES, event_count, stream_count)
        await connection.execute("DROP TABLE samples")
        await connection.execute("VACUUM (ANALYZE, FREEZE)")
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()
    return stream_count


async def _fill_chunk(connection: asyncpg.Connection[asyncpg.Record], first: int, last: int, sample_count: int) -> None:
    await connection.execute(_FILL_EVENTS, first, last, EVENTS_PER_STREAM, STREAMS_SIDE_BY_SIDE, sample_count, timeout=None)
