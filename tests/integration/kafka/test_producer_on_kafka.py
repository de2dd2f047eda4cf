"""The fence, the producer and the tails on a real broker."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
import structlog
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from headwater.errors import BrokerUnavailable, ConfigurationError, RecordRefused, RelayFenced
from headwater.kafka import (
    TOPIC_SETTINGS,
    Envelope,
    FencedProducer,
    KafkaSettings,
    KafkaTopics,
    OffsetRange,
    Partition,
    SharedCouriers,
    encode_envelope,
    open_reader,
)
from headwater.kafka.client import abort_connections
from headwater.messages import LogPosition, RecordedEvent
from tests.outbox_support import read_topics

LOG_ID = UUID("6f1c3f5e-0d52-4f53-9a3f-0d4f5a3a9a11")


@pytest.fixture
def settings(kafka_bootstrap: str) -> KafkaSettings:
    return KafkaSettings.parse(kafka_bootstrap, topic_partitions=2)


@pytest.fixture
async def partitions(settings: KafkaSettings) -> list[Partition]:
    topic = f"t{uuid4().hex[:12]}"
    assert await KafkaTopics(settings).ensure([topic]) == {topic: 2}
    return [Partition(topic, 0), Partition(topic, 1)]


async def open_producer(settings: KafkaSettings, partitions: list[Partition]) -> FencedProducer:
    return await FencedProducer.open(settings, transactional_id=f"test-{partitions[0].topic}", partitions=partitions)


async def send(producer: FencedProducer, partition: Partition, *positions: int, filler: int = 10) -> int:
    batch = producer.new_batch()
    for position in positions:
        event = RecordedEvent(position, "order-1", position, "OrderPlaced", f'"{"x" * filler}"', {}, uuid4(), datetime.now(UTC))
        envelope = Envelope(event, LOG_ID, LogPosition(1, position), LogPosition(1, position - 1))
        assert batch.append(encode_envelope(envelope, source="/services/test"))
    return await producer.send(partition, batch)


async def positions_in(settings: KafkaSettings, partition: Partition) -> list[int]:
    found = await read_topics(settings.address, {partition.topic: 2})
    return [envelope.position.global_position for envelope in found[partition]]


async def test_batches_arrive_in_order_at_the_offsets_that_are_returned(settings: KafkaSettings, partitions: list[Partition]) -> None:
    producer = await open_producer(settings, partitions)
    assert await asyncio.gather(*(send(producer, partition, 1, 2) for partition in partitions)) == [1, 1]
    assert [await send(producer, partitions[0], 3), await send(producer, partitions[0], 4, 5)] == [3, 4]
    assert await positions_in(settings, partitions[0]) == [1, 2, 3, 4, 5]
    await producer.abandon()
    await producer.abandon()


async def test_a_predecessor_is_refused_from_the_fence_on_and_sends_nothing_more(
    settings: KafkaSettings, partitions: list[Partition]
) -> None:
    first = await open_producer(settings, partitions)
    await send(first, partitions[0], 1)
    second = await open_producer(settings, partitions)
    assert (second.identity.producer_id, second.identity.epoch) == (first.identity.producer_id, first.identity.epoch + 2)
    with pytest.raises(RelayFenced):
        await send(first, partitions[0], 2)
    with pytest.raises(BrokerUnavailable, match="dropped"):
        await send(first, partitions[1], 2)
    await send(second, partitions[0], 2)
    assert await positions_in(settings, partitions[0]) == [1, 2]
    for producer in (first, second):
        await producer.abandon()


async def test_without_the_marker_a_predecessor_still_gets_in(settings: KafkaSettings, partitions: list[Partition]) -> None:
    """A newer epoch alone refuses nothing until its holder writes: the reason for the empty aborted transaction."""
    first = await open_producer(settings, partitions)
    second = await open_producer(settings, [partitions[1]])
    await send(first, partitions[0], 1)
    with pytest.raises(RelayFenced):
        await send(first, partitions[1], 1)
    for producer in (first, second):
        await producer.abandon()


async def test_a_refused_batch_is_told_and_nothing_follows_it(settings: KafkaSettings, partitions: list[Partition]) -> None:
    producer = await open_producer(settings, partitions)
    with pytest.raises(RecordRefused, match=r"max\.message\.bytes"):
        await send(producer, partitions[0], 1, filler=3_000_000)
    with pytest.raises(BrokerUnavailable, match="dropped"):
        await send(producer, partitions[0], 2)
    await producer.abandon()
    assert await positions_in(settings, partitions[0]) == []


async def test_a_cancelled_send_ends_the_producer_without_a_trace(settings: KafkaSettings, partitions: list[Partition]) -> None:
    producer = await open_producer(settings, partitions)
    sending = [asyncio.create_task(send(producer, partition, 1, filler=500_000)) for partition in partitions]
    await asyncio.sleep(0)
    for task in sending:
        task.cancel()
    await asyncio.gather(*sending, return_exceptions=True)
    await producer.abandon()
    with pytest.raises(BrokerUnavailable):
        await send(producer, partitions[0], 2)


async def test_producers_that_share_a_client_are_refused_alone_and_lose_it_together(
    settings: KafkaSettings, partitions: list[Partition]
) -> None:
    shared = SharedCouriers(settings)

    async def opened(partition: Partition) -> FencedProducer:
        name = f"test-{partition.topic}-{partition.number}"
        return await FencedProducer.open(settings, transactional_id=name, partitions=[partition], shared=shared)

    first, second = [await opened(partition) for partition in partitions]
    heir = await opened(partitions[0])
    # In one request: what one is refused does not concern the other.
    refused, sent = await asyncio.gather(send(first, partitions[0], 1), send(second, partitions[1], 1), return_exceptions=True)
    assert isinstance(refused, RelayFenced)
    assert isinstance(sent, int)
    await first.abandon()
    await send(heir, partitions[0], 1)
    await send(second, partitions[1], 2)
    couriers = await shared.borrow()
    lost = [asyncio.create_task(send(producer, partition, 3)) for producer, partition in ((heir, partitions[0]), (second, partitions[1]))]
    for _ in range(3):
        await asyncio.sleep(0)
    abort_connections(couriers.client)
    assert [type(outcome) for outcome in await asyncio.gather(*lost, return_exceptions=True)] == [BrokerUnavailable] * 2
    third = await opened(partitions[1])
    await send(third, partitions[1], 4)
    for producer in (heir, second, third):
        await producer.abandon()
    await shared.give_back(couriers)
    # Whether what was under way got in is unknown; the next relay reads it from the tail.
    assert [set(await positions_in(settings, partition)) - {3} for partition in partitions] == [{1}, {1, 2, 4}]


async def test_what_an_abandoned_producer_had_waiting_is_not_sent(settings: KafkaSettings, partitions: list[Partition]) -> None:
    shared = SharedCouriers(settings)
    one, other = [
        await FencedProducer.open(settings, transactional_id=f"test-{partition}", partitions=[partition], shared=shared)
        for partition in partitions
    ]
    first = asyncio.create_task(send(other, partitions[1], 1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    # The first request is under way; this waits for its answer.
    waiting = asyncio.create_task(send(one, partitions[0], 1))
    await asyncio.sleep(0)
    await one.abandon()
    with pytest.raises(BrokerUnavailable):
        await waiting
    await first
    await send(other, partitions[1], 2)
    await other.abandon()
    assert [await positions_in(settings, partition) for partition in partitions] == [[], [1, 2]]


async def test_tails_are_found_below_markers(settings: KafkaSettings, partitions: list[Partition]) -> None:
    producer = await open_producer(settings, partitions)
    await send(producer, partitions[0], 1, 2, 3)
    await producer.abandon()
    await (await open_producer(settings, partitions)).abandon()
    async with open_reader(settings) as reader:
        bounds = await reader.bounds(partitions)
        assert bounds == {partitions[0]: OffsetRange(0, 5), partitions[1]: OffsetRange(0, 2)}
        scans = await reader.scan({partitions[0]: OffsetRange(2, 5), partitions[1]: OffsetRange(0, 2)}, LOG_ID)
        found = scans[partitions[0]]
        assert found.at_start is not None
        assert found.last is not None
        assert (found.at_start.position.global_position, found.last.position.global_position, found.last_offset) == (2, 3, 3)
        assert scans[partitions[1]].last is None
        assert (await reader.scan({partitions[0]: OffsetRange(0, 5)}, uuid4()))[partitions[0]].last is None


async def test_topics_keep_everything_and_those_that_do_not_are_told(settings: KafkaSettings) -> None:
    kept, risky = f"t{uuid4().hex[:12]}", f"t{uuid4().hex[:12]}"
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.address)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(risky, 1, 1, topic_configs={"retention.ms": "1000", "max.message.bytes": "5000"})])
        with structlog.testing.capture_logs() as facts:
            topics = KafkaTopics(settings)
            assert await topics.ensure([kept, risky]) == {kept: 2, risky: 1}
            assert await topics.ensure([kept, risky]) == {kept: 2, risky: 1}
        warnings = [fact for fact in facts if fact["event"] == "topic_would_lose_records"]
        assert [(fact["topic"], fact["settings"]) for fact in warnings] == [(risky, {"retention.ms": "1000", "max.message.bytes": "5000"})]
        answer = (await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, kept)]))[0]
        actual = {entry[0]: entry[1] for entry in answer.resources[0][4]}
        assert TOPIC_SETTINGS.items() <= actual.items()
        assert await topics.describe([kept, "never-made"]) == {kept: 2}
    finally:
        await admin.close()


async def test_topics_are_made_with_replicas_in_sync_and_those_with_fewer_are_told(settings: KafkaSettings) -> None:
    named, plain = f"t{uuid4().hex[:12]}", f"t{uuid4().hex[:12]}"
    await KafkaTopics(settings).ensure([plain])
    asked = replace(settings, topic_replication_factor=1, topic_min_insync_replicas=1)
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.address)
    await admin.start()
    try:
        await KafkaTopics(asked).ensure([named])
        answer = (await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, named)]))[0]
        # Source 1: set for this topic, not the broker's default.
        assert [(entry[1], entry[3]) for entry in answer.resources[0][4] if entry[0] == "min.insync.replicas"] == [("1", 1)]
        with structlog.testing.capture_logs() as facts:
            await KafkaTopics(replace(asked, topic_min_insync_replicas=2)).ensure([plain])
        (warning,) = [fact for fact in facts if fact["event"] == "topic_would_lose_records"]
        assert (warning["topic"], warning["settings"], warning["wanted"]["min.insync.replicas"]) == (
            plain,
            {"min.insync.replicas": "1"},
            "2",
        )
    finally:
        await admin.close()


async def test_a_topic_the_cluster_cannot_have_says_which_setting_to_change(settings: KafkaSettings) -> None:
    many = KafkaSettings(settings.bootstrap, topic_replication_factor=9)
    with pytest.raises(ConfigurationError, match="HEADWATER_TOPIC_REPLICATION_FACTOR"):
        await KafkaTopics(many).ensure([f"t{uuid4().hex[:12]}"])
