"""A batch that Kafka refuses: its partition waits there, the others go on, and nothing is left out once it is let in."""

from __future__ import annotations

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from headwater.messages import ANY, NewEvent
from headwater.outbox import RelayOptions
from headwater.testing.waiting import eventually
from tests.outbox_support import RelayOnServers, read_topics, running, whole_log


async def test_a_refused_batch_leaves_no_hole_behind_it(servers: RelayOnServers) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=servers.settings.address)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(servers.category, 3, 1, topic_configs={"max.message.bytes": "20000"})])
        await servers.append(300)
        large = await servers.store.append(
            f"{servers.category}-large", [NewEvent("OrderPlaced", f'{{"filler": "{"x" * 30_000}"}}')], expected_version=ANY
        )
        await servers.append(300)
        relay = servers.relay(RelayOptions(lease_seconds=5, checkpoint_seconds=0.05, stop_retry_seconds=0.5))
        async with running(relay):
            await eventually(
                lambda: [stop.position.global_position for stop in relay.status().stopped_partitions] == [large.global_position], 30
            )
            stopped = relay.status().stopped_partitions[0].partition
            await servers.append(100)

            async def others_are_complete() -> bool:
                faults = await servers.faults()
                return all(fault.startswith(f"{stopped}:") for fault in faults)

            await eventually(others_are_complete, 30)
            found = await read_topics(servers.settings.address, {servers.category: 3})
            assert found[stopped][-1].position.global_position < large.global_position
            assert await servers.relayed_through() < large.global_position
            await admin.alter_configs(
                [ConfigResource(ConfigResourceType.TOPIC, servers.category, configs={"max.message.bytes": "2097152"})]
            )
            await servers.all_relayed()
        assert await servers.faults() == []
        assert len(await whole_log(servers.store)) == 701
    finally:
        await admin.close()
