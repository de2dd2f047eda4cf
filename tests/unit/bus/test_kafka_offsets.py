"""Which offsets are told to Kafka: of what is committed, and of the markers behind it; never of what is still in hand."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from aiokafka.structs import TopicPartition

from headwater.bus import KafkaSource, RebalanceListener
from headwater.bus.kafka_offsets import GroupOffsets
from headwater.clock import SYSTEM_CLOCK
from headwater.kafka import KafkaSettings, Partition
from headwater.testing.memory_bus import MemoryRecord

ORDER = Partition("order", 0)
KEY = TopicPartition(*ORDER)


class Client:
    """A member whose position moves when records are taken, as aiokafka's does."""

    def __init__(self) -> None:
        self.at, self.told = 0, list[int]()
        self.batches: list[int] = []
        self.may_gather = asyncio.Event()
        self.is_gathering = asyncio.Event()

    def assignment(self) -> set[TopicPartition]:
        return {KEY}

    async def position(self, _key: TopicPartition) -> int:
        return self.at

    async def commit(self, offsets: dict[TopicPartition, int]) -> None:
        self.told.append(offsets[KEY])

    async def getmany(self, *, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[Any]]:
        if self.at:
            self.is_gathering.set()
            await self.may_gather.wait()
        first, self.at = self.at, self.at + self.batches.pop(0)
        return {KEY: [MemoryRecord(*ORDER, offset, 0, None, None) for offset in range(first, self.at)]}


def offsets_of(client: Client) -> GroupOffsets:
    listener = cast("RebalanceListener", object())
    return GroupOffsets(cast("Any", client), listener, group="shop", clock=SYSTEM_CLOCK)


async def test_markers_count_once_everything_before_them_is_committed_and_nothing_is_told_twice() -> None:
    client = Client()
    offsets = offsets_of(client)
    offsets.note_handed(ORDER, 5)
    client.at = 7
    for committed in (3, 3, 5, 5):
        await offsets.tell({ORDER: committed})
    assert client.told == [3, 7]


async def test_a_partition_that_was_never_started_is_not_told_of() -> None:
    client = Client()
    await offsets_of(client).tell({ORDER: 3})
    assert client.told == []


async def test_records_in_hand_are_not_told_while_more_are_gathered() -> None:
    client = Client()
    client.batches = [4, 2]
    source = KafkaSource(KafkaSettings.parse("nowhere:1"), group="shop")
    offsets = offsets_of(client)
    source._client, source._offsets, source._received_at = cast("Any", client), offsets, SYSTEM_CLOCK.monotonic()
    source._started.add(ORDER)
    offsets.note_handed(ORDER, 0)
    receiving = asyncio.create_task(source.receive(limit=10, timeout_seconds=1))
    await client.is_gathering.wait()
    await offsets.tell({ORDER: 0})
    assert client.told == [0], "the four that were received are not handled yet"
    client.may_gather.set()
    assert len((await receiving)[ORDER]) == 6
    await offsets.tell({ORDER: 4})
    assert client.told == [0, 4]
