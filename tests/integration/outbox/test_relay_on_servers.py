"""The relay from a real log into a real broker."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from headwater.coordination import Lease, item_lease_name
from headwater.errors import BrokerUnavailable, RelayFenced
from headwater.eventstore import Checkpoint
from headwater.kafka import KafkaSettings, Partition
from headwater.messages import LogPosition
from headwater.outbox import RELAY_GROUP, SHARDS, KafkaRelayBroker, PartitionPosition, RelayOptions
from headwater.testing.waiting import eventually
from tests.outbox_support import RelayOnServers, running


async def test_everything_in_the_log_gets_to_kafka_once_in_order(servers: RelayOnServers) -> None:
    await servers.append(3_000)
    async with running(servers.relay()):
        await servers.append(500)
        await servers.append(200, category=f"stock{uuid4().hex[:12]}")
        await servers.append(100)
        await servers.all_relayed()
    assert await servers.faults() == []


async def test_large_events_travel(servers: RelayOnServers) -> None:
    await servers.append(12, filler=1024 * 1024 - 100)
    async with running(servers.relay()):
        await servers.all_relayed()
    assert await servers.faults() == []


async def test_a_relay_goes_on_where_the_one_before_was_cut_off(servers: RelayOnServers) -> None:
    for _ in range(4):
        async with running(servers.relay(RelayOptions(drain_seconds_max=0.0, lease_seconds=0.5))):
            await servers.append(400)
    async with running(servers.relay()):
        await servers.all_relayed()
    assert await servers.faults() == []


async def test_relays_that_join_and_leave_hand_shards_over_without_a_trace(servers: RelayOnServers) -> None:
    """While others write: nothing is missing, twice or out of order, whoever had the shard."""
    options = RelayOptions(lease_seconds=30, checkpoint_seconds=0.1)
    await servers.append(200)
    staying, coming = servers.relay(options), servers.relay(options)
    async with running(staying):
        await eventually(lambda: len(staying.status().shards) == len(SHARDS), 30)
        for _ in range(2):
            async with running(coming):
                writing = asyncio.create_task(servers.append(400))
                await eventually(lambda: (len(staying.status().shards), len(coming.status().shards)) == (3, 3), 30)
                await writing
                before = coming.status().relayed_count
                await servers.append(200)
                await servers.all_relayed()
                assert coming.status().relayed_count > before
            # Long before any lease runs out: what was given back is taken at the next look.
            await eventually(lambda: len(staying.status().shards) == len(SHARDS), 20)
        await servers.append(100)
        await servers.all_relayed()
    assert await servers.faults() == []


async def test_a_topic_that_was_deleted_is_filled_again(servers: RelayOnServers) -> None:
    await servers.append(300)
    async with running(servers.relay()):
        await servers.all_relayed()
    admin = AIOKafkaAdminClient(bootstrap_servers=servers.settings.address)
    await admin.start()
    await admin.delete_topics([servers.category])
    await admin.close()
    await servers.append(10)
    async with running(servers.relay()):
        await servers.all_relayed()
    assert await servers.faults() == []


async def test_a_kafka_that_cannot_be_reached_loses_nothing(servers: RelayOnServers) -> None:
    await servers.append(10)
    relay = servers.relay(broker=KafkaRelayBroker(KafkaSettings.parse("127.0.0.1:1")))
    async with running(relay):
        await eventually(lambda: relay.status().state == "failed")
        assert BrokerUnavailable.__name__ in str(relay.status().last_error)
        assert "HEADWATER_KAFKA" in str(relay.status().last_error)
    async with running(servers.relay()):
        await servers.all_relayed()
    assert await servers.faults() == []


async def test_progress_is_saved_whole_or_not_at_all(servers: RelayOnServers) -> None:
    lease = await taken(servers)
    checkpoint = Checkpoint(1, 5, uuid4())
    moved = {Partition("order", 1): PartitionPosition(LogPosition(1, 5), 7)}
    await servers.positions.save("3", lease, checkpoint, moved)
    await servers.positions.record_topics({"order": 3})
    await servers.positions.record_topics({"order": 4})
    await servers.positions.leases.release(lease)
    assert (await taken(servers)).term == lease.term + 1
    with pytest.raises(RelayFenced, match="another relay took shard 3"):
        await servers.positions.save("3", lease, Checkpoint(), {Partition("order", 1): PartitionPosition(LogPosition(1, 0), -1)})
    progress = await servers.positions.load("3")
    assert (progress.relayed_through, progress.positions, progress.topics) == (checkpoint, moved, {"order": 3})


async def test_a_save_waits_for_nobody_but_the_lease(servers: RelayOnServers) -> None:
    lease = await taken(servers)
    await asyncio.gather(
        *(servers.positions.save("3", lease, Checkpoint(), {}) for _ in range(20)),
        *(servers.positions.leases.renew([lease], 10) for _ in range(20)),
    )


async def taken(servers: RelayOnServers) -> Lease:
    lease = await servers.positions.leases.acquire(item_lease_name(RELAY_GROUP, "3"), "tester", 10)
    assert lease is not None
    return lease
