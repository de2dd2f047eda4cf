"""How far the log got into Kafka, as the relay's own rows tell; Kafka itself is not asked. Reads only."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from headwater.coordination import item_lease_name
from headwater.eventstore import LogInspection, PostgresEventStore
from headwater.kafka import Partition
from headwater.messages import LOG_START, LogPosition
from headwater.outbox.ports import PartitionPosition
from headwater.outbox.shards import RELAY_GROUP, SHARDS
from headwater.postgres import Database, sql_file

_PACKAGE: Final = "headwater.outbox"
_LIST_SHARDS = sql_file(_PACKAGE, "list_shards")
_LIST_PARTITIONS = sql_file(_PACKAGE, "list_partitions")
_LIST_TOPICS = sql_file(_PACKAGE, "list_topics")


@dataclass(frozen=True, slots=True)
class ShardFacts:
    """One shard of the partitions, on its way to Kafka."""

    shard: str
    holder: str | None
    """Who relays it, or did when it ended unexpectedly; None when it was given back, and before the first."""
    term: int | None
    lease_expires_at: datetime | None
    is_held: bool
    """Whether somebody relays it now, by the database's clock."""
    relayed_through: LogPosition
    """Every event at or below is acknowledged."""
    relayed_at: datetime | None
    lag_events: int
    """Events of the whole log that can be read and are not known to be acknowledged; not counted beyond `LAG_COUNT_MAX`."""
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
    """Partitions of each topic."""
    partitions: tuple[PartitionFacts, ...]


async def read_outbox_status(database: Database) -> OutboxStatus:
    """Leases, checkpoints, lag and the state of every partition."""
    horizon = await PostgresEventStore(database).horizon()
    async with database.connection() as connection:
        shards = await connection.fetch(_LIST_SHARDS, SHARDS, [item_lease_name(RELAY_GROUP, shard) for shard in SHARDS])
        partitions = await connection.fetch(_LIST_PARTITIONS)
        topics = await connection.fetch(_LIST_TOPICS)
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
        shards=await _with_lag(database, known, horizon),
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


async def _with_lag(database: Database, shards: list[ShardFacts], horizon: int) -> tuple[ShardFacts, ...]:
    """Counted once for shards that are equally far, as they mostly are."""
    lags: dict[int, tuple[int, datetime | None]] = {}
    for after in {shard.relayed_through.global_position for shard in shards}:
        waiting = await PostgresEventStore(database).read_log(after=after, limit=1)
        oldest = waiting.events[0].recorded_at if waiting.events else None
        lags[after] = await LogInspection(database).count_between(after, horizon), oldest
    return tuple(
        replace(shard, lag_events=lag_events, oldest_waiting_at=oldest)
        for shard in shards
        for lag_events, oldest in [lags[shard.relayed_through.global_position]]
    )
