"""One relay with Avro in a process of its own, which may be told to die between registering a schema and publishing it.

Usage: relay_process.py DSN BOOTSTRAP SCHEMAS_TOPIC run|die
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping

from headwater import Event
from headwater.errors import SchemaError
from headwater.eventstore import PostgresEventStore
from headwater.kafka import KafkaSettings
from headwater.messages import EventRegistry
from headwater.outbox import KafkaRelayBroker, PostgresRelayPositions, Relay, RelayOptions
from headwater.postgres import Database
from headwater.schemas import AvroEncoder, KafkaSchemaBoard, PostgresSchemas


class CupFilled(Event):
    """The raw events of the test have this type, wherever they are."""

    number: int


class DeadlyBoard(KafkaSchemaBoard):
    """Nothing is published any more."""

    async def publish(self, schema_texts: Mapping[int, str]) -> Mapping[int, SchemaError]:
        os.kill(os.getpid(), signal.SIGKILL)
        return {}


async def main(dsn: str, bootstrap: str, topic: str, what: str) -> None:
    """Relay until killed."""
    kafka = KafkaSettings.parse(bootstrap, topic_partitions=3)
    board = (DeadlyBoard if what == "die" else KafkaSchemaBoard)(kafka, topic=topic)
    async with Database(dsn) as database:
        values = AvroEncoder(EventRegistry([CupFilled]), PostgresSchemas(database), board)
        options = RelayOptions(lease_seconds=0.5, checkpoint_seconds=0.05)
        store, positions = PostgresEventStore(database), PostgresRelayPositions(database)
        await Relay(store, KafkaRelayBroker(kafka), positions, event_source="/services/test", values=values, options=options).run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
