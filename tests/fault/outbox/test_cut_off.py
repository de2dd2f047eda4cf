"""A relay that is cut off from PostgreSQL, while its Kafka is there and another relay is well."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from headwater.eventstore import PostgresEventStore
from headwater.outbox import SHARDS, KafkaRelayBroker, PostgresRelayPositions, Relay, RelayOptions
from headwater.postgres import Database
from headwater.testing import PostgresProxy
from headwater.testing.waiting import eventually
from tests.outbox_support import RelayOnServers, running

OPTIONS = RelayOptions(lease_seconds=1.5, checkpoint_seconds=0.1, slice_events_max=100)


async def test_a_relay_that_is_cut_off_from_the_log_is_replaced_and_comes_back(servers: RelayOnServers) -> None:
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(PostgresProxy(servers.database.dsn))
        database = await stack.enter_async_context(Database(proxy.dsn))
        cut_off = Relay(
            PostgresEventStore(database),
            KafkaRelayBroker(servers.settings),
            PostgresRelayPositions(database),
            event_source="/services/test",
            options=OPTIONS,
        )
        well = servers.relay(OPTIONS)
        await servers.append(300)
        async with running(cut_off), running(well):
            await eventually(lambda: counts(cut_off, well) == [3, 3], 30)
            writing = asyncio.create_task(servers.append(1_000))
            proxy._refuses = True
            proxy.cut_all()
            await eventually(lambda: counts(cut_off, well) == [0, len(SHARDS)], 30)
            assert cut_off.status().state == "waiting"
            await writing
            await servers.all_relayed()
            proxy._refuses = False
            await eventually(lambda: counts(cut_off, well) == [3, 3], 30)
            before = cut_off.status().relayed_count
            await servers.append(300)
            await servers.all_relayed()
            assert cut_off.status().relayed_count > before
    assert await servers.faults() == []


def counts(*relays: Relay) -> list[int]:
    return [len(relay.status().shards) for relay in relays]
