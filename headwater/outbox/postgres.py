"""Progress of relays in PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import orjson

from headwater.coordination import Lease, Leases, PostgresLeases
from headwater.errors import RelayFenced
from headwater.eventstore import Checkpoint
from headwater.kafka import Partition
from headwater.messages import LogPosition
from headwater.outbox.ports import Division, PartitionPosition, RelayProgress
from headwater.postgres import Database, sql_file

_PACKAGE: Final = "headwater.outbox"
_READ_CHECKPOINT = sql_file(_PACKAGE, "read_checkpoint")
_LIST_POSITIONS = sql_file(_PACKAGE, "list_positions")
_LIST_TOPICS = sql_file(_PACKAGE, "list_topics")
_LIST_DIVISIONS = sql_file(_PACKAGE, "list_divisions")
_DIVIDE_TOPIC = sql_file(_PACKAGE, "divide_topic")
_RECORD_TOPICS = sql_file(_PACKAGE, "record_topics")
_SAVE_PROGRESS = sql_file(_PACKAGE, "save_progress")


class PostgresRelayPositions:
    """`RelayPositions` over a `Database` that somebody else opens and closes."""

    def __init__(self, database: Database) -> None:
        self._database, self._leases = database, PostgresLeases(database)

    @property
    def leases(self) -> Leases:
        """In the same database."""
        return self._leases

    async def load(self, shard: str) -> RelayProgress:
        """What was saved last."""
        async with self._database.connection() as connection:
            checkpoint = await connection.fetchrow(_READ_CHECKPOINT, shard)
            positions = await connection.fetch(_LIST_POSITIONS)
            topics = await connection.fetch(_LIST_TOPICS)
            divided = await connection.fetch(_LIST_DIVISIONS)
        divisions: dict[str, list[Division]] = {}
        for row in divided:
            through = LogPosition(row["through_epoch"], row["through_position"])
            tails = {int(number): LogPosition.parse(tail) for number, tail in orjson.loads(row["tails"]).items()}
            divisions.setdefault(row["topic"], []).append(Division(through, row["partition_count"], tails))
        return RelayProgress(
            relayed_through=Checkpoint(*tuple(checkpoint)[:3]) if checkpoint is not None else Checkpoint(),
            positions={
                Partition(row["topic"], row["partition_number"]): PartitionPosition(
                    LogPosition(row["epoch"], row["global_position"]), row["kafka_offset"]
                )
                for row in positions
            },
            topics={row["topic"]: row["partition_count"] for row in topics},
            divisions=divisions,
            predecessor=checkpoint["predecessor"] if checkpoint is not None else None,
        )

    async def record_topics(self, partition_counts: Mapping[str, int]) -> None:
        """Remember topics at their first use."""
        async with self._database.connection() as connection:
            await connection.execute(_RECORD_TOPICS, list(partition_counts), list(partition_counts.values()))

    async def divide_topic(self, leases: Sequence[Lease], topic: str, partition_count: int, before: Division) -> None:
        """Divide what comes next in a topic among more partitions; see `RelayPositions.divide_topic`."""
        async with self._database.connection() as connection:
            divided = await connection.fetchval(
                _DIVIDE_TOPIC,
                [lease.name for lease in leases],
                [lease.term for lease in leases],
                topic,
                before.partition_count,
                partition_count,
                *before.through,
                orjson.dumps({str(number): str(tail) for number, tail in before.tails.items()}).decode(),
            )
        if divided is None:
            raise RelayFenced(f"somebody took a shard, or divided {topic!r}, meanwhile; nothing was recorded. Repeat the command")

    async def save(self, shard: str, lease: Lease, relayed_through: Checkpoint, moved: Mapping[Partition, PartitionPosition]) -> None:
        """Save the checkpoint and the partitions that moved, together; see `RelayPositions.save`."""
        async with self._database.connection() as connection:
            term = await connection.fetchval(
                _SAVE_PROGRESS,
                shard,
                lease.name,
                lease.term,
                [partition.topic for partition in moved],
                [partition.number for partition in moved],
                [kept.position.epoch for kept in moved.values()],
                [kept.position.global_position for kept in moved.values()],
                [kept.offset for kept in moved.values()],
                relayed_through.epoch,
                relayed_through.global_position,
                relayed_through.event_id,
            )
        if term is None:
            raise RelayFenced(f"another relay took shard {shard} (term {lease.term} is over)")
