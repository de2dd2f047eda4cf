"""Whether everybody has handled everything that a topic holds: groups of this database by their rows, all others by what they committed to Kafka."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from headwater.bus.postgres import decoded_marks
from headwater.kafka import GroupFacts, Partition
from headwater.messages import LOG_START, LogPosition
from headwater.outbox import TopicContent
from headwater.postgres import Database, sql_file

_PACKAGE: Final = "headwater.bus"
_LIST_TOPIC_POSITIONS = sql_file(_PACKAGE, "list_topic_positions")
_COUNT_TOPIC_PARKED = sql_file(_PACKAGE, "count_topic_parked")


@dataclass(frozen=True, slots=True)
class GroupProgress:
    """How far a group of this database got in one topic."""

    group: str
    marks: Mapping[int, Mapping[UUID, LogPosition]]
    """For each partition it ever claimed, the last position applied of each log."""
    parked_keys: int


async def read_group_progress(database: Database, topic: str) -> tuple[GroupProgress, ...]:
    """Of every group that ever claimed a partition of the topic, by name.

    Raises:
        StorageUnavailable: PostgreSQL does not answer.
    """
    async with database.connection() as connection:
        rows = await connection.fetch(_LIST_TOPIC_POSITIONS, topic)
        parked = {row["group_name"]: row["parked_keys"] for row in await connection.fetch(_COUNT_TOPIC_PARKED, topic)}
    groups: dict[str, dict[int, Mapping[UUID, LogPosition]]] = {}
    for row in rows:
        groups.setdefault(row["group_name"], {})[row["partition"]] = decoded_marks(row["marks"])
    return tuple(GroupProgress(group, marks, parked.get(group, 0)) for group, marks in groups.items())


def unhandled_by_group(progress: GroupProgress, content: TopicContent) -> list[str]:
    """What a group of this database has yet to do before the topic may be divided anew; parked keys wait in a partition that would not be theirs."""
    behind = [
        partition
        for partition, tail in sorted(content.tails.items())
        if progress.marks.get(partition.number, {}).get(content.log_id, LOG_START) < tail.position
    ]
    reasons = [f"the group {progress.group!r} is behind in {_named(behind)}: let it catch up"] if behind else []
    if progress.parked_keys:
        how = "headwater dead-letters list --parked, then retry, skip or discard them"
        reasons.append(f"the group {progress.group!r} has {progress.parked_keys:,} parked keys: {how}")
    return reasons


def unhandled_by_other(group: GroupFacts, content: TopicContent) -> list[str]:
    """The same for a group that only Kafka knows, by its committed offsets."""
    behind = [partition for partition, tail in sorted(content.tails.items()) if group.committed.get(partition, 0) <= tail.offset]
    return [f"the group {group.name!r} has not committed the end of {_named(behind)}: let it catch up"] if behind else []


def _named(partitions: Sequence[Partition]) -> str:
    listed = ", ".join(str(partition) for partition in partitions[:5])
    return listed + (f" and {len(partitions) - 5} more" if len(partitions) > 5 else "")
