"""What a partition holds: its bounds, and the records of one log from an offset to the end."""

# aiokafka ships no types; its values get ours here.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from headwater.errors import BrokerUnavailable
from headwater.kafka.envelope import Provenance, provenance_of
from headwater.kafka.errors import translate_kafka_errors
from headwater.kafka.partitions import Partition
from headwater.kafka.settings import REQUEST_SECONDS_MAX, KafkaSettings

SCAN_IDLE_SECONDS_MAX: Final = 3 * REQUEST_SECONDS_MAX
"""A scan that gets nothing for so long gives up."""
_POLL_MILLISECONDS: Final = 20


@dataclass(frozen=True, slots=True)
class OffsetRange:
    """The offsets that a partition holds: from `first` to before `end`."""

    first: int
    end: int


@dataclass(frozen=True, slots=True)
class Scan:
    """What a log left in a partition, from an offset on."""

    at_start: Provenance | None = None
    """The record exactly at that offset, if it is of this log."""
    last: Provenance | None = None
    """The one with the highest position."""
    last_offset: int = -1


class PartitionReader:
    """Reads partitions without any group; use `open_reader`."""

    def __init__(self, consumer: AIOKafkaConsumer, settings: KafkaSettings) -> None:
        self._consumer, self._settings = consumer, settings

    async def bounds(self, partitions: Iterable[Partition]) -> dict[Partition, OffsetRange]:
        """What each partition holds now, up to its high watermark."""
        wanted = {partition: TopicPartition(partition.topic, partition.number) for partition in partitions}
        with translate_kafka_errors(self._settings, "asking for offsets"):
            first: dict[TopicPartition, int] = await self._consumer.beginning_offsets(list(wanted.values()))
            end: dict[TopicPartition, int] = await self._consumer.end_offsets(list(wanted.values()))
        return {partition: OffsetRange(first[key], end[key]) for partition, key in wanted.items()}

    async def scan(self, ranges: Mapping[Partition, OffsetRange], log_id: UUID) -> dict[Partition, Scan]:
        """What this log left in each partition between the offsets. Cost: all records there are read.

        Raises:
            BrokerUnavailable: the records could not be read to the end.
        """
        scans = {partition: Scan() for partition in ranges}
        pending = {partition for partition, offsets in ranges.items() if offsets.first < offsets.end}
        with translate_kafka_errors(self._settings, "reading the tails of partitions"):
            self._consumer.assign([TopicPartition(*partition) for partition in pending])
            for partition in pending:
                self._consumer.seek(TopicPartition(*partition), ranges[partition].first)
            while pending:
                async with asyncio.timeout(SCAN_IDLE_SECONDS_MAX):
                    fetched: dict[TopicPartition, list[Any]] = await self._consumer.getmany(timeout_ms=_POLL_MILLISECONDS)
                    for key, records in fetched.items():
                        partition = Partition(key.topic, key.partition)
                        scans[partition] = _continued(scans[partition], records, ranges[partition], log_id)
                    pending = {p for p in pending if await self._consumer.position(TopicPartition(*p)) < ranges[p].end}
                    if pending and not self._consumer.assignment():
                        raise BrokerUnavailable("the partitions vanished while their tails were read")
        return scans


@asynccontextmanager
async def open_reader(settings: KafkaSettings) -> AsyncGenerator[PartitionReader]:
    """A reader of partitions.

    Raises:
        BrokerUnavailable: Kafka cannot be reached.
    """
    consumer = AIOKafkaConsumer(
        **settings.client_options(),
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level="read_uncommitted",
        fetch_max_wait_ms=50,
    )
    try:
        with translate_kafka_errors(settings, "connecting"):
            async with asyncio.timeout(REQUEST_SECONDS_MAX):
                await consumer.start()
        yield PartitionReader(consumer, settings)
    finally:
        await consumer.stop()


def _continued(scan: Scan, records: list[Any], offsets: OffsetRange, log_id: UUID) -> Scan:
    at_start, last, last_offset = scan.at_start, scan.last, scan.last_offset
    for record in records:
        found = provenance_of(record.headers)
        if found is None or found.log_id != log_id:
            continue
        if record.offset == offsets.first:
            at_start = found
        if last is None or found.position > last.position:
            last, last_offset = found, int(record.offset)
    return Scan(at_start, last, last_offset)
