"""The least that moves a log into Kafka: asyncpg's rows to aiokafka's batches, with the same keys, values and headers.

It reads the next page while it sends the one before, and that is all: it remembers nothing, fences nobody, asks for no horizon, and would leave holes,
repeat and reorder whenever anything fails.
"""

# aiokafka and fastavro ship few types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
import io
import json
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Final

import asyncpg
import fastavro
import orjson
from aiokafka import AIOKafkaProducer
from pydantic import TypeAdapter

from benchmarks.kafka_records import EVENT_SOURCE, PARTITION_COUNT
from headwater.kafka import partition_of
from headwater.messages import Event
from headwater.schemas import avro_schema, frame

PAGE_SIZE: Final = 2_000
"""As the relay's slices."""
SELECT_PAGE: Final = """
SELECT events.global_position, streams.stream_name, events.version, events.type, events.data::text, events.metadata::text, events.event_id,
       events.recorded_at
  FROM headwater.events JOIN headwater.streams USING (stream_id)
 WHERE global_position > $1
 ORDER BY global_position
 LIMIT $2
"""

EncodesValue = Callable[[str], bytes]


def json_value(text: str) -> bytes:
    """As it is."""
    return text.encode()


def avro_value(event_class: type[Event]) -> EncodesValue:
    """Through pydantic, which turns moments, decimals and ids into what fastavro writes, under the class's schema."""
    schema = fastavro.parse_schema(json.loads(json.dumps(avro_schema(event_class))))
    read, prefix = TypeAdapter(event_class), frame(1)

    def encode(text: str) -> bytes:
        out = io.BytesIO()
        out.write(prefix)
        fastavro.schemaless_writer(out, schema, _plain(read.validate_json(text)))
        return out.getvalue()

    return encode


def _plain(event: Event) -> dict[str, Any]:
    datum = event.model_dump()
    for line in datum["lines"]:
        line["unit_price"], line["discount"] = str(line["unit_price"]), str(line["discount"])
    return datum


async def move_raw(
    connection: asyncpg.Connection[asyncpg.Record], producer: AIOKafkaProducer, topic: str, encode: EncodesValue, event_count: int
) -> int:
    """Move the log's first events; returns how many, once all are acknowledged."""
    acknowledgements: list[Any] = []
    previous: defaultdict[int, bytes] = defaultdict(lambda: b"1:0")
    batches: dict[int, Any] = {}
    moved = after = 0
    ahead = asyncio.create_task(connection.fetch(SELECT_PAGE, after, PAGE_SIZE))
    try:
        while moved < event_count:
            rows = await ahead
            after = rows[-1][0]
            ahead = asyncio.create_task(connection.fetch(SELECT_PAGE, after, PAGE_SIZE))
            for row in rows:
                position, stream_name, version, event_type, data, metadata, event_id, recorded_at = row
                key, place = stream_name.encode(), b"1:%d" % position
                number = partition_of(key, PARTITION_COUNT)
                headers = [
                    ("ce_specversion", b"1.0"),
                    ("ce_id", str(event_id).encode()),
                    ("ce_type", event_type.encode()),
                    ("ce_source", EVENT_SOURCE.encode()),
                    ("ce_time", recorded_at.isoformat().encode()),
                    ("ce_subject", key),
                    ("content-type", b"application/json"),
                    ("headwater-log", b"019a0000-0000-7000-8000-000000000000"),
                    ("headwater-position", place),
                    ("headwater-previous", previous[number]),
                    ("headwater-version", b"%d" % version),
                    *((name, text.encode()) for name, text in orjson.loads(metadata).items()),
                ]
                previous[number] = place
                value, timestamp_ms = encode(data), int(recorded_at.timestamp() * 1000)
                batch = batches.get(number)
                if batch is None or batch.append(key=key, value=value, timestamp=timestamp_ms, headers=headers) is None:
                    if batch is not None:
                        acknowledgements.append(await producer.send_batch(batch, topic, partition=number))
                    batch = batches[number] = producer.create_batch()
                    batch.append(key=key, value=value, timestamp=timestamp_ms, headers=headers)
            # Nothing waits for a full batch.
            for number, batch in batches.items():
                acknowledgements.append(await producer.send_batch(batch, topic, partition=number))
            batches.clear()
            moved += len(rows)
    finally:
        ahead.cancel()
        await asyncio.gather(ahead, return_exceptions=True)
    await asyncio.gather(*acknowledgements)
    return moved
