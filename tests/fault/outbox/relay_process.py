"""A relay in a process of its own, to be killed and frozen: `python -m tests.fault.outbox.relay_process DSN BOOTSTRAP LEASE_SECONDS`.

Facts go to standard error, one JSON object a line.
"""

from __future__ import annotations

import sys

import uvloop

from headwater.eventstore import PostgresEventStore
from headwater.kafka import KafkaSettings
from headwater.outbox import KafkaRelayBroker, PostgresRelayPositions, Relay, RelayOptions
from headwater.postgres import Database
from headwater.telemetry import configure_logging


async def main(dsn: str, bootstrap: str, lease_seconds: float) -> None:
    configure_logging("json", "info")
    async with Database(dsn) as database:
        relay = Relay(
            PostgresEventStore(database),
            KafkaRelayBroker(KafkaSettings.parse(bootstrap, topic_partitions=6)),
            PostgresRelayPositions(database),
            event_source="/services/test",
            options=RelayOptions(lease_seconds=lease_seconds, checkpoint_seconds=0.1, slice_events_max=100),
        )
        await relay.run()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
