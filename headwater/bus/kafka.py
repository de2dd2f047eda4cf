"""Kafka as a source: the group protocol proposes partitions, Postgres says from where.

One aiokafka consumer, subscribed for its membership, which never asks for a committed offset and never resets one. A partition that was just
assigned is held back until the consumer claimed it and says where to start. What is committed to the group's offsets is for others to look at
(`kafka_offsets`).
"""

# aiokafka ships no types; its values get ours here.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUntypedBaseClass=false, reportIncompatibleMethodOverride=false

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import aiokafka.errors as kafka
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka.structs import TopicPartition

from headwater.bus.kafka_offsets import LAST_COMMIT_SECONDS_MAX, GroupOffsets
from headwater.bus.ports import OffsetOutOfRange, RebalanceListener
from headwater.bus.reading import EncodedRecords, RecordReader
from headwater.bus.values import SourceRecord
from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.errors import BrokerUnavailable, HeadwaterError
from headwater.kafka import KafkaSettings, KafkaTopics, OffsetRange, Partition, ValueDecoder, translate_kafka_errors

SESSION_TIMEOUT_SECONDS: Final = 10.0
"""A member that the broker does not hear of for so long has its partitions given to others."""
POLL_INTERVAL_SECONDS_MAX: Final = 600.0
"""A batch may take long; heartbeats go on meanwhile, and the epoch guards what the group protocol does not."""
START_SECONDS_MAX: Final = 30.0
CLOSE_SECONDS_MAX: Final = 5.0
FETCH_WAIT_SECONDS: Final = 0.5
BUSY_SECONDS: Final = 0.1
"""Records that come so soon after others are waited for, see `GATHER_MILLISECONDS`."""
GATHER_MILLISECONDS: Final = 3
PARTITION_FETCH_BYTES: Final = 1024 * 1024
"""A larger record is fetched all the same, alone."""
FETCH_BYTES_MAX: Final = 16 * 1024 * 1024


class KafkaSource:
    """A `MessageSource`: this group's share of the topics' partitions."""

    def __init__(
        self,
        kafka: KafkaSettings,
        *,
        group: str,
        instance_id: str | None = None,
        session_timeout_seconds: float = SESSION_TIMEOUT_SECONDS,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Remember where Kafka is; nothing is connected yet.

        Args:
            instance_id: a name that this process keeps over restarts, unique in the group: a quick restart then moves no partitions.
            session_timeout_seconds: how soon a dead member's partitions are given to others.
        """
        self._kafka, self._clock = kafka, clock
        self._group, self._instance_id, self._session_timeout_seconds = group, instance_id, session_timeout_seconds
        self._topics = KafkaTopics(self._kafka)
        self._client: AIOKafkaConsumer | None = None
        self._offsets: GroupOffsets | None = None
        self._started: set[Partition] = set()
        self._received_at = -math.inf

    async def open(self, topics: Sequence[str], listener: RebalanceListener) -> None:
        """Make the topics if need be, and join the group; see `MessageSource.open`."""
        await self._topics.ensure(topics)
        milliseconds = int(self._session_timeout_seconds * 1000)
        client = AIOKafkaConsumer(
            **self._kafka.client_options(),
            group_id=self._group,
            group_instance_id=self._instance_id,
            enable_auto_commit=False,
            auto_offset_reset="none",
            session_timeout_ms=milliseconds,
            heartbeat_interval_ms=max(milliseconds // 4, 1),
            max_poll_interval_ms=int(POLL_INTERVAL_SECONDS_MAX * 1000),
            fetch_max_wait_ms=int(FETCH_WAIT_SECONDS * 1000),
            fetch_max_bytes=FETCH_BYTES_MAX,
            max_partition_fetch_bytes=PARTITION_FETCH_BYTES,
        )
        offsets = self._offsets = GroupOffsets(client, listener, group=self._group, clock=self._clock)
        client.subscribe(list(topics), listener=_Rebalance(self, client, listener, offsets))
        self._client = client
        try:
            with translate_kafka_errors(self._kafka, "joining the group"):
                async with asyncio.timeout(START_SECONDS_MAX):
                    await client.start()
        except BaseException:
            await self.close()
            raise
        offsets.start()

    async def close(self) -> None:
        """Leave the group; a broker that does not answer is not waited for."""
        client, self._client = self._client, None
        offsets, self._offsets = self._offsets, None
        self._started.clear()
        try:
            if offsets is not None:
                await offsets.stop()
        finally:
            if client is not None:
                with contextlib.suppress(kafka.KafkaError, OSError, TimeoutError):
                    async with asyncio.timeout(CLOSE_SECONDS_MAX):
                        await client.stop()

    def reader(self, values: ValueDecoder) -> RecordReader:
        """Reads what a relay wrote."""
        return EncodedRecords(values)

    async def offsets(self, partitions: Sequence[Partition]) -> Mapping[Partition, OffsetRange]:
        """What each partition holds now; see `MessageSource.offsets`."""
        client = self._open_client()
        keys = [TopicPartition(*partition) for partition in partitions]
        with translate_kafka_errors(self._kafka, "asking for offsets"):
            first: dict[TopicPartition, int] = await client.beginning_offsets(keys)
            end: dict[TopicPartition, int] = await client.end_offsets(keys)
        return {Partition(*key): OffsetRange(first[key], end[key]) for key in keys}

    async def unread(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        """Records between what comes next and the end; see `MessageSource.unread`. Markers of transactions count only until they are passed."""
        client = self._open_client()
        started = [partition for partition in partitions if partition in self._started]
        with translate_kafka_errors(self._kafka, "asking for ends"):
            end: dict[TopicPartition, int] = await client.end_offsets([TopicPartition(*partition) for partition in started])
            return {
                partition: max(0, end[key] - await client.position(key))
                for partition in started
                if (key := TopicPartition(*partition)) in client.assignment()
            }

    def start_at(self, partition: Partition, offset: int) -> None:
        """Receive this partition from the offset on."""
        client, key = self._open_client(), TopicPartition(*partition)
        if key in client.assignment():
            client.seek(key, offset)
            client.resume(key)
            self._started.add(partition)
            if self._offsets is not None:
                self._offsets.note_handed(partition, offset)

    def pause(self, partition: Partition) -> None:
        """Receive nothing of it for now."""
        if self._client is not None and (key := TopicPartition(*partition)) in self._client.assignment():
            self._client.pause(key)

    def resume(self, partition: Partition) -> None:
        """Go on after the last record received."""
        if self._client is not None and partition in self._started and (key := TopicPartition(*partition)) in self._client.assignment():
            self._client.resume(key)

    async def receive(self, *, limit: int, timeout_seconds: float) -> Mapping[Partition, Sequence[SourceRecord]]:
        """The next records of each partition; see `MessageSource.receive`."""
        client = self._open_client()
        try:
            received: dict[TopicPartition, list[Any]] = await client.getmany(timeout_ms=int(timeout_seconds * 1000), max_records=limit)
        except kafka.OffsetOutOfRangeError as error:
            ((key, offset),) = error.args[0].items()
            raise OffsetOutOfRange(Partition(*key), int(offset)) from error
        except kafka.NoOffsetForPartitionError:
            # A partition just assigned: aiokafka looked for a committed offset before we could say where to start.
            return {}
        except kafka.KafkaError as error:
            with translate_kafka_errors(self._kafka, "receiving"):
                raise error from None
        self._note_handed(received)
        await self._gather(client, received, limit)
        self._note_handed(received)
        # A record received before its partition was given back and assigned anew may still be on the way.
        return {partition: records for key, records in received.items() if (partition := Partition(*key)) in self._started}

    def _note_handed(self, received: Mapping[TopicPartition, Sequence[Any]]) -> None:
        """In the same step of the loop in which the client's positions moved: nothing that is in hand here may be told as handled."""
        if self._offsets is not None:
            for key, records in received.items():
                if (partition := Partition(*key)) in self._started:
                    self._offsets.note_handed(partition, records[-1].offset + 1)

    async def _gather(self, client: AIOKafkaConsumer, received: dict[TopicPartition, list[Any]], limit: int) -> None:
        """Where records come all the time, take those along that wait behind the ones received: the client fetches no more of a partition before
        what it holds of it is taken, and would have them ready only after the next transaction.
        """
        moment, count = self._clock.monotonic(), sum(map(len, received.values()))
        was_busy, self._received_at = moment - self._received_at < BUSY_SECONDS, moment if count else self._received_at
        if was_busy and 0 < count < limit:
            # What is wrong now is still wrong next time, when nothing is in hand.
            with contextlib.suppress(kafka.KafkaError):
                more: dict[TopicPartition, list[Any]] = await client.getmany(timeout_ms=GATHER_MILLISECONDS, max_records=limit - count)
                for key, records in more.items():
                    received.setdefault(key, []).extend(records)

    def _open_client(self) -> AIOKafkaConsumer:
        if self._client is None:
            raise BrokerUnavailable("the source is not open")
        return self._client

    def forget(self, partitions: Iterable[Partition]) -> None:
        """Nothing of these is received any more before the next `start_at`."""
        self._started.difference_update(partitions)


class _Rebalance(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka ships no types
    """Called by aiokafka's coordinator; the next generation of the group waits for `on_partitions_revoked`."""

    def __init__(self, source: KafkaSource, client: AIOKafkaConsumer, listener: RebalanceListener, offsets: GroupOffsets) -> None:
        self._source, self._client, self._listener, self._offsets = source, client, listener, offsets

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        partitions = [Partition(*key) for key in revoked]
        committed = await self._listener.revoked(partitions)
        await self._offsets.tell(committed, seconds_max=LAST_COMMIT_SECONDS_MAX)
        self._offsets.forget(partitions)
        self._source.forget(partitions)

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        keys = list(assigned)
        for key in keys:
            # Any offset will do: without one aiokafka would begin at the committed offset, which is for tools to look at.
            self._client.seek(key, 0)
        self._client.pause(*keys)
        await self._listener.assigned([Partition(*key) for key in keys])


class KafkaReplySource:
    """A `ReplySource`: all partitions of a topic, read by this process alone, with no group and no offsets but its own."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka, self._topics = kafka, KafkaTopics(kafka)
        self._client: AIOKafkaConsumer | None = None
        self._next: dict[TopicPartition, int] = {}

    async def open(self, topic: str) -> None:
        """Begin at the end, or where it was left; see `ReplySource.open`."""
        counts = await self._topics.ensure([topic])
        keys = [TopicPartition(topic, number) for number in range(counts[topic])]
        client = self._client = AIOKafkaConsumer(
            **self._kafka.client_options(),
            enable_auto_commit=False,
            auto_offset_reset="none",
            fetch_max_wait_ms=int(FETCH_WAIT_SECONDS * 1000),
        )
        try:
            with translate_kafka_errors(self._kafka, "reading replies"):
                async with asyncio.timeout(START_SECONDS_MAX):
                    await client.start()
                    client.assign(keys)
                    if new := [key for key in keys if key not in self._next]:
                        self._next |= await client.end_offsets(new)
            for key in keys:
                client.seek(key, self._next[key])
        except BaseException:
            await self.close()
            raise

    async def receive(self, *, timeout_seconds: float) -> Sequence[SourceRecord]:
        """The next records; see `ReplySource.receive`."""
        if self._client is None:
            raise BrokerUnavailable("the replies are not being read")
        try:
            with translate_kafka_errors(self._kafka, "reading replies"):
                received: dict[TopicPartition, list[Any]] = await self._client.getmany(timeout_ms=int(timeout_seconds * 1000))
        except BrokerUnavailable:
            raise
        except HeadwaterError as error:
            # The topic was cut off or made anew: what was there is gone, and its callers stop waiting by themselves.
            self._next.clear()
            raise BrokerUnavailable(f"the replies are read from the end again: {error}") from error
        for key, records in received.items():
            self._next[key] = records[-1].offset + 1
        return [record for records in received.values() for record in records]

    async def close(self) -> None:
        """Let go of the connection; see `ReplySource.close`."""
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(kafka.KafkaError, OSError, TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS_MAX):
                    await client.stop()
