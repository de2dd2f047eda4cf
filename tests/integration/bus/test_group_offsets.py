"""What the usual tools see of a group: offsets that follow the rows in PostgreSQL, and that nobody reads back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiokafka.errors as kafka
import pytest
import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import DeleteGroupsRequest
from aiokafka.structs import TopicPartition

from headwater.bus import ConsumerLimits, Context, kafka_offsets
from headwater.kafka import FencedProducer, KafkaSettings, Partition, inspect_groups, open_reader
from headwater.testing import eventually
from tests.integration.bus.feeding import PARTITION_COUNT, Feeder
from tests.integration.bus.shop import Shop, note


async def told(shop: Shop) -> Mapping[Partition, int]:
    """What the group committed to Kafka."""
    groups = {group.name: group for group in await inspect_groups(KafkaSettings.parse(shop.bootstrap), [shop.category])}
    return groups[shop.group].committed if shop.group in groups else {}


async def lag(shop: Shop) -> int | None:
    """As a lag exporter counts it; None while the group told nothing of some partition."""
    committed = await told(shop)
    if len(committed) < PARTITION_COUNT:
        return None
    async with open_reader(KafkaSettings.parse(shop.bootstrap)) as reader:
        return sum(held.end - committed[partition] for partition, held in (await reader.bounds(partitions(shop))).items())


async def has_lag(shop: Shop, expected: int) -> bool:
    return await lag(shop) == expected


async def rows(shop: Shop) -> dict[Partition, int]:
    async with shop.database.connection() as connection:
        found = await connection.fetch(
            "SELECT topic, partition, next_offset FROM headwater.consumer_positions WHERE group_name = $1", shop.group
        )
    return {Partition(row["topic"], row["partition"]): row["next_offset"] for row in found}


async def has_applied(shop: Shop, count: int) -> bool:
    return await shop.applied() == count


def partitions(shop: Shop) -> list[Partition]:
    return [Partition(shop.category, number) for number in range(PARTITION_COUNT)]


@pytest.fixture
def only_when_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_offsets, "OFFSETS_COMMIT_SECONDS", 3_600.0)


async def test_lag_comes_to_zero_while_it_runs_and_a_relays_markers_do_not_count(shop: Shop, feeder: Feeder) -> None:
    note(shop)
    await feeder.feed(*[shop.fact(n, f"a{n}") for n in range(30)])
    async with shop.running():
        await eventually(lambda: has_lag(shop, 0), timeout=30)
        assert await told(shop) == await rows(shop)
        fence = await FencedProducer.open(
            KafkaSettings.parse(shop.bootstrap), transactional_id=f"test-{shop.category}", partitions=partitions(shop)
        )
        await fence.abandon()
        await eventually(lambda: has_lag(shop, 0), timeout=30)
        assert sum((await told(shop)).values()) == 30 + PARTITION_COUNT


@pytest.mark.usefixtures("only_when_given_back")
async def test_what_failed_is_not_told_when_it_stops(shop: Shop, feeder: Feeder) -> None:
    @shop.subscriptions.on(shop.placed)
    async def picky(event: Any, context: Context) -> None:
        if event.sku == "never":
            raise ConnectionError("not yet")
        await context.connection.execute("INSERT INTO effects (sku) VALUES ($1)", event.sku)

    await feeder.feed(shop.fact(1, "a"), shop.fact(1, "never"), shop.fact(1, "b"))
    async with shop.running(limits=ConsumerLimits(parked_keys_max=0)) as consumer:
        await eventually(lambda: [status for status in consumer.status() if status.reason], timeout=30)
    assert sum((await told(shop)).values()) == 1
    assert await told(shop) == await rows(shop)


@pytest.mark.usefixtures("only_when_given_back")
async def test_partitions_that_go_to_another_member_are_told_of(shop: Shop, feeder: Feeder) -> None:
    note(shop)
    await feeder.feed(*[shop.fact(n, f"a{n}") for n in range(30)])
    async with shop.running() as first:
        await eventually(lambda: has_applied(shop, 30), timeout=30)
        assert not await told(shop)
        async with shop.running() as second:
            await eventually(lambda: first.status() and second.status(), timeout=30)
            assert await lag(shop) == 0


@pytest.mark.parametrize("spoiled", ["set back", "set ahead", "deleted"])
async def test_no_effect_is_missing_or_repeated_when_somebody_spoils_the_offsets(shop: Shop, feeder: Feeder, spoiled: str) -> None:
    note(shop)
    await feeder.feed(*[shop.fact(n, f"a{n}") for n in range(30)])
    async with shop.running():
        await eventually(lambda: has_applied(shop, 30), timeout=30)
    await feeder.feed(*[shop.fact(n, f"b{n}") for n in range(30)])
    assert await lag(shop) == 30
    await spoil(shop, spoiled)
    assert await lag(shop) != 30
    async with shop.running():
        await eventually(lambda: has_applied(shop, 60), timeout=30)
        await eventually(lambda: has_lag(shop, 0), timeout=30)
    skus = await shop.skus()
    assert sorted(skus) == sorted([f"a{n}" for n in range(30)] + [f"b{n}" for n in range(30)])


async def spoil(shop: Shop, how: str) -> None:
    """As an operator would, with the tools that come with Kafka."""
    if how == "deleted":
        async with admin(shop) as client:
            answer = await client._send_request(DeleteGroupsRequest([shop.group]), await client.find_coordinator(shop.group))
            assert [code for _, code in answer.results] == [0]
        return
    async with open_reader(KafkaSettings.parse(shop.bootstrap)) as reader:
        bounds = await reader.bounds(partitions(shop))
    tool = AIOKafkaConsumer(bootstrap_servers=shop.bootstrap, group_id=shop.group, enable_auto_commit=False)
    await tool.start()
    try:
        tool.assign([TopicPartition(*partition) for partition in bounds])
        await tool.commit({TopicPartition(*p): 0 if how == "set back" else held.end + 1_000 for p, held in bounds.items()})
    finally:
        await tool.stop()


@asynccontextmanager
async def admin(shop: Shop) -> AsyncIterator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(bootstrap_servers=shop.bootstrap)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


async def test_offsets_that_kafka_refuses_disturb_nobody_and_are_told_again(
    shop: Shop, feeder: Feeder, monkeypatch: pytest.MonkeyPatch
) -> None:
    note(shop)
    monkeypatch.setattr(kafka_offsets, "OFFSETS_COMMIT_SECONDS", 0.05)
    commit, refusals = AIOKafkaConsumer.commit, 0

    async def refused(_self: Any, _offsets: Any = None) -> None:
        nonlocal refusals
        refusals += 1
        raise kafka.GroupAuthorizationFailedError(shop.group)

    monkeypatch.setattr(AIOKafkaConsumer, "commit", refused)
    with structlog.testing.capture_logs() as facts:
        async with shop.running():
            await feeder.feed(*[shop.fact(n, f"a{n}") for n in range(30)])
            await eventually(lambda: has_applied(shop, 30), timeout=30)
            seen = refusals
            await eventually(lambda: refusals > seen + 3, timeout=30)
            assert not await told(shop)
            monkeypatch.setattr(AIOKafkaConsumer, "commit", commit)
            await eventually(lambda: has_lag(shop, 0), timeout=30)
    names = [fact["event"] for fact in facts]
    assert names.count("offsets_not_committed") == names.count("offsets_committed_again") == 1
