"""How far the log got into Kafka, as the relay's own rows tell; Kafka itself is not asked. Reads only."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final
from uuid import UUID

from headwater.eventstore import LogInspection, PostgresEventStore
from headwater.kafka import Partition
from headwater.messages import LOG_START, LogPosition
from headwater.outbox.ports import PartitionPosition
from headwater.outbox.relay import WHOLE_LOG
from headwater.postgres import Database, sql_file

_PACKAGE: Final = "headwater.outbox"
_LIST_SHARDS = sql_file(_PACKAGE, "list_shards")
_LIST_PARTITIONS = sql_file(_PACKAGE, "list_partitions")
_LIST_TOPICS = sql_file(_PACKAGE, "list_topics")


@dataclass(frozen=True, slots=True)
class ShardFacts:
    """One shard of the log on its way to Kafka."""

    shard: str
    holder: UUID | None
    """Who relays it, or did last; None before the first."""
    term: int | None
    lease_expires_at: datetime | None
    is_held: bool
    """Whether somebody relays it now, by the database's clock."""
    relayed_through: LogPosition
    """Every event at or below is acknowledged."""
    relayed_at: datetime | None
    lag_events: int
    """Events that can be read and are not known to be acknowledged; not counted beyond `LAG_COUNT_MAX`."""
    oldest_waiting_at: datetime | None
    """When the first of them was recorded."""


@dataclass(frozen=True, slots=True)
class PartitionFacts:
    """The last record of this log that a partition acknowledged."""

    partition: Partition
    last: PartitionPosition
    acknowledged_at: datetime


@dataclass(frozen=True, slots=True)
class OutboxStatus:
    """The way from the log to Kafka."""

    horizon: int
    shards: tuple[ShardFacts, ...]
    topics: dict[str, int]
    """Partitions of each topic when it was first relayed to."""
    partitions: tuple[PartitionFacts, ...]


async def read_outbox_status(database: Database) -> OutboxStatus:
    """Leases, checkpoints, lag and the state of every partition; a log that was never relayed has one shard that nobody holds."""
    horizon = await PostgresEventStore(database).horizon()
    async with database.connection() as connection:
        shards = await connection.fetch(_LIST_SHARDS)
        partitions = await connection.fetch(_LIST_PARTITIONS)
        topics = await connection.fetch(_LIST_TOPICS)
    never_relayed = ShardFacts(WHOLE_LOG, None, None, None, False, LOG_START, None, 0, None)
    known = [
        ShardFacts(
            shard=row["shard"],
            holder=row["holder"],
            term=row["term"],
            lease_expires_at=row["expires_at"],
            is_held=row["is_held"],
            relayed_through=LOG_START if row["epoch"] is None else LogPosition(row["epoch"], row["global_position"]),
            relayed_at=row["checkpointed_at"],
            lag_events=0,
            oldest_waiting_at=None,
        )
        for row in shards
    ]
    return OutboxStatus(
        horizon=horizon,
        shards=tuple([await _with_lag(database, shard, horizon) for shard in known or [never_relayed]]),
        topics={row["topic"]: row["partition_count"] for row in topics},
        partitions=tuple(
            PartitionFacts(
                Partition(row["topic"], row["partition_number"]),
                PartitionPosition(LogPosition(row["epoch"], row["global_position"]), row["kafka_offset"]),
                row["updated_at"],
            )
            for row in partitions
        ),
    )


async def _with_lag(database: Database, shard: ShardFacts, horizon: int) -> ShardFacts:
    after = shard.relayed_through.global_position
    waiting = await PostgresEventStore(database).read_log(after=after, limit=1)
    return replace(
        shard,
        lag_events=await LogInspection(database).count_between(after, horizon),
        oldest_waiting_at=waiting.events[0].recorded_at if waiting.events else None,
    )
