"""A reader that knows nothing but the broker: prints what Avro and JSON values on a topic say, one JSON object a line.

Usage: reader_process.py BOOTSTRAP TOPIC
"""

from __future__ import annotations

import asyncio
import json
import sys

from headwater.kafka import KafkaSettings
from headwater.schemas import AvroDecoder, KafkaSchemaBoard
from tests.outbox_support import read_topics


async def main(bootstrap: str, topic: str) -> None:
    """Read the topic's three partitions to their ends."""
    values = AvroDecoder(KafkaSchemaBoard(KafkaSettings.parse(bootstrap)))
    for envelopes in (await read_topics(bootstrap, {topic: 3}, values)).values():
        for envelope in envelopes:
            print(json.dumps({"position": envelope.position.global_position, "data": json.loads(envelope.event.data)}))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
