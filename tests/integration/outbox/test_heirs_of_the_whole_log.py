"""A log that one relay moved as a whole, before relays shared it: its progress is handed on, and it stays out for good."""

from __future__ import annotations

import asyncpg
import pytest

from headwater.errors import RelayFenced
from headwater.eventstore import Checkpoint
from headwater.kafka import Envelope, FencedProducer, Partition, encode_envelope, event_topic, partition_of
from headwater.messages import LOG_START, LogPosition
from headwater.outbox import SHARDS, KafkaRelayBroker, transactional_id
from headwater.postgres import load_migrations
from tests.outbox_support import RelayOnServers, running, whole_log

SENT = 120
MIGRATION = "0015_expand_coordination"


async def test_the_migration_hands_the_checkpoint_to_every_shard_and_takes_the_lease_away(empty_postgres_dsn: str) -> None:
    connection = await asyncpg.connect(empty_postgres_dsn)
    try:
        await connection.execute("CREATE SCHEMA headwater")
        for migration in load_migrations():
            if migration.name == MIGRATION:
                await connection.execute(
                    "INSERT INTO headwater.relay_leases VALUES ('0', gen_random_uuid(), 7, clock_timestamp() + interval '1 hour');"
                    "INSERT INTO headwater.relay_checkpoints (shard, epoch, global_position, event_id) VALUES ('0', 2, 41, gen_random_uuid());"
                )
            await connection.execute(migration.sql)
        rows = await connection.fetch("SELECT shard, epoch, global_position, predecessor FROM headwater.relay_checkpoints ORDER BY shard")
        assert [tuple(row) for row in rows] == [(shard, 2, 41, "0") for shard in SHARDS]
        assert await connection.fetchval("SELECT count(DISTINCT event_id) FROM headwater.relay_checkpoints") == 1
        with pytest.raises(asyncpg.UndefinedTableError):  # what a relay of before meets when it renews its lease or saves
            await connection.execute("UPDATE headwater.relay_leases SET expires_at = clock_timestamp() WHERE shard = '0' AND term = 7")
    finally:
        connection.terminate()


async def test_a_relay_of_the_whole_log_that_thaws_is_refused_in_every_partition(servers: RelayOnServers) -> None:
    await servers.append(200)
    before = WholeLogRelay(servers)
    await before.start()
    await before.send(SENT)
    await before.leave_to_heirs()
    async with running(servers.relay()):
        await servers.all_relayed()
        for partition in before.partitions:
            with pytest.raises(RelayFenced):
                await before.send_late(partition)
    assert await servers.faults() == []
    assert [(await servers.positions.load(shard)).predecessor for shard in SHARDS] == [None] * len(SHARDS)
    await before.stop()


class WholeLogRelay:
    """What the relay of before did, as far as Kafka can tell: one transactional id over all partitions."""

    def __init__(self, servers: RelayOnServers) -> None:
        self._servers = servers
        self.partitions: list[Partition] = []
        self._tails: dict[Partition, LogPosition] = {}
        self._producers: dict[Partition, FencedProducer] = {}

    async def start(self) -> None:
        counts = await KafkaRelayBroker(self._servers.settings).ensure_topics([self._servers.category])
        self.partitions = [Partition(self._servers.category, number) for number in range(counts[self._servers.category])]
        self._identity = await self._servers.store.identity()
        self._producer = await self._open()

    async def _open(self) -> FencedProducer:
        return await FencedProducer.open(
            self._servers.settings, transactional_id=transactional_id(self._identity, "0"), partitions=self.partitions
        )

    async def send(self, count: int) -> None:
        """The first events of the log, in order."""
        self._events = await whole_log(self._servers.store)
        for event in self._events[:count]:
            await self._send(self._producer, event)

    async def _send(self, producer: FencedProducer, event) -> None:
        partition = Partition(event_topic(event), partition_of(event.stream_name.encode(), len(self.partitions)))
        position = self._identity.locate(event.global_position)
        envelope = Envelope(event, self._identity.log_id, position, self._tails.get(partition, LOG_START))
        batch = producer.new_batch()
        assert batch.append(encode_envelope(envelope, source="/services/test"))
        await producer.send(partition, batch)
        self._tails[partition] = position

    async def leave_to_heirs(self) -> None:
        """As the migration does: its checkpoint, a little behind what Kafka has, goes to all shards."""
        last = self._events[SENT // 2]
        checkpoint = Checkpoint(1, last.global_position, last.event_id)
        await self._servers.positions.record_topics({self._servers.category: len(self.partitions)})
        async with self._servers.database.connection() as connection:
            await connection.executemany(
                "INSERT INTO headwater.relay_checkpoints (shard, epoch, global_position, event_id, predecessor) VALUES ($1, $2, $3, $4, '0')",
                [(shard, checkpoint.epoch, checkpoint.global_position, checkpoint.event_id) for shard in SHARDS],
            )

    async def send_late(self, partition: Partition) -> None:
        """The batch that was on its way when it froze: of a producer that did not fail yet, under the same id and epoch."""
        thawed = FencedProducer(self._producer._shared, self._producer._couriers, self._servers.settings, self._producer.identity)
        thawed._next_sequence.update(self._producer._next_sequence)
        event = next(e for e in self._events[SENT:] if partition_of(e.stream_name.encode(), len(self.partitions)) == partition.number)
        await self._send(thawed, event)

    async def stop(self) -> None:
        await self._producer.abandon()
