"""Gives a topic more partitions, and stands still at one step until it is killed: DSN KAFKA TOPIC COUNT STEP LEASE_SECONDS."""

from __future__ import annotations

import asyncio
import sys
from typing import Any, cast

from headwater.eventstore import PostgresEventStore
from headwater.kafka import KafkaSettings
from headwater.outbox import DividesTopics, KafkaRelayBroker, PartitionAdding, PostgresRelayPositions, RelayPositions, TopicContent
from headwater.postgres import Database

STEPS = ("acquired", "fenced", "handled", "added", "fenced again", "recorded")


class StandingStill:
    """Goes on to what is inside, up to one call of it, after which it says so and waits for its end."""

    def __init__(self, inner: Any, calls: dict[str, int]) -> None:
        self._inner, self._calls = inner, calls

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in self._calls:
            return found

        async def call(*arguments: Any, **options: Any) -> Any:
            answer = await found(*arguments, **options)
            self._calls[name] -= 1
            if self._calls[name] == 0:
                await stand_still()
            return answer

        return call


async def stand_still() -> None:
    print("here", flush=True)
    await asyncio.Event().wait()


async def main(dsn: str, bootstrap: str, topic: str, count: str, step: str, lease_seconds: str) -> None:
    calls = {
        "acquired": {"acquire": 6},
        "fenced": {"fence": 1},
        "added": {"add_partitions": 1},
        "fenced again": {"fence": 9},
        "recorded": {"divide_topic": 1},
    }.get(step, {})

    async def require_handled(_content: TopicContent) -> None:
        if step == "handled":
            await stand_still()

    async with Database(dsn) as database:
        positions = PostgresRelayPositions(database)
        positions._leases = cast("Any", StandingStill(positions.leases, calls))
        adding = PartitionAdding(
            PostgresEventStore(database),
            cast("DividesTopics", StandingStill(KafkaRelayBroker(KafkaSettings.parse(bootstrap)), calls)),
            cast("RelayPositions", StandingStill(positions, calls)),
            topic=topic,
            partition_count=int(count),
            lease_seconds=float(lease_seconds),
        )
        await adding.run(require_handled)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
