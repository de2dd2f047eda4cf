"""A relay frozen with its batch in hand, on real servers: what the fence is for, and what happens without it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import uuid4

import pytest

from headwater.kafka import KafkaSettings, Partition
from headwater.outbox import SHARDS, FencedWriter, KafkaRelayBroker, RelayBatch, RelayOptions
from headwater.testing.waiting import eventually
from tests.outbox_support import RelayOnServers, running


class FreezingWriter:
    """Stands still in front of the socket until it is thawed."""

    def __init__(self, writer: FencedWriter, frozen: asyncio.Event, thawed: asyncio.Event) -> None:
        self._writer, self._frozen, self._thawed = writer, frozen, thawed

    def new_batch(self) -> RelayBatch:
        return self._writer.new_batch()

    async def send(self, partition: Partition, batch: RelayBatch) -> int:
        self._frozen.set()
        await self._thawed.wait()
        return await self._writer.send(partition, batch)

    async def abandon(self) -> None:
        await self._writer.abandon()


class FreezingBroker(KafkaRelayBroker):
    """Kafka, with writers that can be frozen, and a fence that can be left out."""

    def __init__(self, settings: KafkaSettings, *, fences: bool) -> None:
        super().__init__(settings)
        self._fences = fences
        self.frozen, self.thawed = asyncio.Event(), asyncio.Event()

    async def fence(self, transactional_id: str, partitions: Sequence[Partition]) -> FreezingWriter:  # type: ignore[override]
        # Another transactional id gives another producer id, whose markers refuse nobody.
        writer = await super().fence(transactional_id if self._fences else f"{transactional_id}-{uuid4()}", partitions)
        return FreezingWriter(writer, self.frozen, self.thawed)


@pytest.mark.parametrize("fences", [True, False])
async def test_a_thawed_batch_is_refused_by_kafka_itself(servers: RelayOnServers, fences: bool) -> None:
    broker = FreezingBroker(servers.settings, fences=fences)
    patient = RelayOptions(lease_seconds=60, checkpoint_seconds=0.05)
    await servers.append(200)
    first = servers.relay(patient, broker)
    async with running(first):
        await broker.frozen.wait()
        await eventually(lambda: [s.relayed_through is not None for s in first.status().shards] == [True] * len(SHARDS))
        # The first relay believes in its leases; only Kafka knows better.
        async with servers.database.connection() as connection:
            await connection.execute("UPDATE headwater.leases SET expires_at = clock_timestamp()")
        heir = FreezingBroker(servers.settings, fences=fences)
        heir.thawed.set()
        async with running(servers.relay(patient, heir)):
            await servers.all_relayed()
            broker.thawed.set()
            await eventually(lambda: "RelayFenced" in str(first.status().last_error))
            await servers.append(50)
            await servers.all_relayed()
    faults = await servers.faults()
    if fences:
        assert "Kafka" in str(first.status().last_error)
        assert faults == []
    else:
        assert any("is there twice" in fault for fault in faults)
