"""A relay frozen with its batch in hand, on real servers: what the fence is for, and what happens without it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, cast
from uuid import uuid4

import pytest

from headwater.coordination import Lease, Leases
from headwater.errors import RelayFenced
from headwater.kafka import KafkaSettings, Partition
from headwater.outbox import SHARDS, FencedWriter, KafkaRelayBroker, PostgresRelayPositions, Relay, RelayBatch, RelayOptions, RelayPositions
from headwater.testing.waiting import eventually
from tests.outbox_support import RelayOnServers, running


class FreezingWriter:
    """Stands still in front of the socket until it is thawed, and tells what became of it then."""

    def __init__(self, writer: FencedWriter, broker: FreezingBroker) -> None:
        self._writer, self._broker = writer, broker

    def new_batch(self) -> RelayBatch:
        return self._writer.new_batch()

    async def send(self, partition: Partition, batch: RelayBatch) -> int:
        self._broker.frozen.set()
        await self._broker.thawed.wait()
        try:
            offset = await self._writer.send(partition, batch)
        except RelayFenced as refusal:
            self._broker.refusals.append(str(refusal))
            raise
        self._broker.sent.append(partition)
        return offset

    async def abandon(self) -> None:
        await self._writer.abandon()


class FreezingBroker(KafkaRelayBroker):
    """Kafka, with writers that can be frozen, and a fence that can be left out."""

    def __init__(self, settings: KafkaSettings, *, fences: bool) -> None:
        super().__init__(settings)
        self._fences = fences
        self.frozen, self.thawed = asyncio.Event(), asyncio.Event()
        self.refusals: list[str] = []
        self.sent: list[Partition] = []

    async def fence(self, transactional_id: str, partitions: Sequence[Partition]) -> FreezingWriter:  # type: ignore[override]
        # Another transactional id gives another producer id, whose markers refuse nobody.
        writer = await super().fence(transactional_id if self._fences else f"{transactional_id}-{uuid4()}", partitions)
        return FreezingWriter(writer, self)


class BelievingLeases:
    """Leases whose holder is never told that they are another's by now."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases

    async def renew(self, leases: Sequence[Lease], _seconds: float) -> Sequence[Lease]:
        return leases

    def __getattr__(self, name: str) -> Any:
        return getattr(self._leases, name)


class BelievingPositions:
    """The relay's rows, with such leases."""

    def __init__(self, positions: PostgresRelayPositions) -> None:
        self._positions, self.leases = positions, BelievingLeases(positions.leases)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._positions, name)


@pytest.mark.parametrize("fences", [True, False])
async def test_a_thawed_batch_is_refused_by_kafka_itself(servers: RelayOnServers, fences: bool) -> None:
    broker = FreezingBroker(servers.settings, fences=fences)
    # It believes in its leases and saves nothing: only Kafka can know better.
    blind = RelayOptions(lease_seconds=600, checkpoint_seconds=600)
    await servers.append(200)
    positions = cast("RelayPositions", BelievingPositions(servers.positions))
    first = Relay(servers.store, broker, positions, event_source="/services/test", options=blind)
    heir_broker = FreezingBroker(servers.settings, fences=fences)
    heir_broker.thawed.set()
    heir = servers.relay(broker=heir_broker)
    async with AsyncExitStack() as heirs:
        async with running(first):
            await broker.frozen.wait()
            await eventually(lambda: [s.relayed_through is not None for s in first.status().shards] == [True] * len(SHARDS))
            async with servers.database.connection() as connection:
                holder = await connection.fetchval("SELECT DISTINCT holder FROM headwater.leases")

            async def is_replaced() -> bool:
                async with servers.database.connection() as connection:
                    await connection.execute("UPDATE headwater.leases SET expires_at = clock_timestamp() WHERE holder = $1", holder)
                return len(heir.status().shards) == len(SHARDS)

            await heirs.enter_async_context(running(heir))
            await eventually(is_replaced, 30)
            await servers.all_relayed()
            assert (broker.sent, broker.refusals) == ([], [])
            broker.thawed.set()
            await eventually(lambda: bool(broker.refusals or broker.sent), 30)
        await servers.append(50)
        await servers.all_relayed()
    faults = await servers.faults()
    if fences:
        assert not broker.sent
        assert all("Kafka" in refusal for refusal in broker.refusals)
        assert faults == []
    else:
        assert any("is there twice" in fault for fault in faults)
