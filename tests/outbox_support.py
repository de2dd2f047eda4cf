"""What relay tests share: what must hold of the topics, whatever was done to the relays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress

from headwater.kafka import Envelope, Partition, event_topic, partition_of
from headwater.messages import LOG_START, RecordedEvent
from headwater.outbox import Relay


def faults_of(
    events: Iterable[RecordedEvent], found: Mapping[Partition, Sequence[Envelope]], partition_counts: Mapping[str, int]
) -> list[str]:
    """Everything that is wrong with what is in Kafka: missing, twice, in the wrong place or order, or with a broken chain."""
    wanted: dict[Partition, list[RecordedEvent]] = {}
    for event in events:
        topic = event_topic(event)
        wanted.setdefault(Partition(topic, partition_of(event.stream_name.encode(), partition_counts[topic])), []).append(event)
    faults: list[str] = []
    for partition in {*wanted, *found}:
        should = [event.global_position for event in wanted.get(partition, [])]
        have = [envelope.position.global_position for envelope in found.get(partition, [])]
        faults += [f"{partition}: {position} is missing" for position in sorted(set(should) - set(have))]
        faults += [f"{partition}: {position} does not belong here" for position in sorted(set(have) - set(should))]
        faults += [f"{partition}: {position} is there twice" for position in sorted({p for p in have if have.count(p) > 1})]
        if have != sorted(have):
            faults.append(f"{partition}: out of order")
        previous = LOG_START
        for envelope in found.get(partition, []):
            if envelope.previous != previous:
                faults.append(f"{partition}: {envelope.position} says that {envelope.previous} came before, but it was {previous}")
            previous = envelope.position
        by_position = {event.global_position: event for event in wanted.get(partition, [])}
        faults += [
            f"{partition}: {e.position} has another content" for e in found.get(partition, []) if by_position.get(e.position[1]) != e.event
        ]
    return faults


@asynccontextmanager
async def running(relay: Relay) -> AsyncIterator[Relay]:
    """Run it beside what is inside, and cancel it at the end."""
    task = asyncio.create_task(relay.run())
    try:
        yield relay
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
