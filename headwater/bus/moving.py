"""Moving a group of handlers from one source to the other, so that no effect is lost and none happens twice: decision 0028.

Who is authoritative: the group's row in `group_sources`. Claims share it and the move locks it, so that from then on nobody claims a partition of the
source of before; the positions of before are removed in the same transaction, so that nobody commits there either.

What is carried over is one position for each category: the last event that was handled. That says everything only if every event before it was handled,
in all partitions; else the move is refused. What comes after it is left to the new source, which has all events, and drops those up to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from uuid import UUID

from headwater.bus.group_sources import source_of
from headwater.bus.log_partitions import PostgresLogPartitions
from headwater.bus.log_records import LOG_TOPIC_PREFIX, log_topic
from headwater.bus.postgres import decoded_marks
from headwater.config import Source
from headwater.errors import DeliveryError, NotFoundError, UsageError
from headwater.eventstore import EventSelection, EventStore, LogIdentity
from headwater.kafka import Partition, partition_of, topic_of
from headwater.messages import LOG_START, LogPosition, category_of
from headwater.outbox import SHARDS, Division, PostgresRelayPositions, count_at
from headwater.postgres import Database, sql_file

_PACKAGE: Final = "headwater.bus"
_READ_GROUP_SOURCE = sql_file(_PACKAGE, "read_group_source")
_LOCK_GROUP_SOURCE = sql_file(_PACKAGE, "lock_group_source")
_LIST_GROUP_POSITIONS = sql_file(_PACKAGE, "list_group_positions")
_LOCK_GROUP_POSITIONS = sql_file(_PACKAGE, "lock_group_positions")
_COUNT_GROUP_PARKED = sql_file(_PACKAGE, "count_group_parked")
_DELETE_GROUP_POSITIONS = sql_file(_PACKAGE, "delete_group_positions")
_INSERT_GROUP_POSITIONS = sql_file(_PACKAGE, "insert_group_positions")
_SET_GROUP_SOURCE = sql_file(_PACKAGE, "set_group_source")
_READ_AT_ONCE: Final = 1_000


class GroupNotReady(DeliveryError):
    """A group cannot be moved yet; nothing was changed. Whoever runs the command does what the message says, and repeats it."""

    retryable = True


@dataclass(frozen=True, slots=True)
class _Row:
    """How far the group got in one partition."""

    partition: Partition
    epoch: int
    next_offset: int
    marks: Mapping[UUID, LogPosition]


@dataclass(frozen=True, slots=True)
class MovedGroup:
    """What was done."""

    group: str
    source: Source
    through: Mapping[str, LogPosition]
    """For each category, the last event that counts as handled."""
    is_changed: bool = True


class GroupMove:
    """Moves one group; nothing of it may work meanwhile."""

    def __init__(
        self,
        database: Database,
        store: EventStore,
        group: str,
        *,
        partition_counts: Mapping[str, int],
        topic_prefix: str = "",
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Put it together; nothing happens before `run`.

        Args:
            partition_counts: of each topic in Kafka that the group is to be fed by; see `topics_of_group`.
            on_progress: told how many events were looked at.
        """
        self._database, self._store, self._group = database, store, group
        self._partition_counts, self._prefix, self._on_progress = partition_counts, topic_prefix, on_progress

    async def run(self, to: Source) -> MovedGroup:
        """Move it, or change nothing.

        Raises:
            NotFoundError: there is no such group.
            GroupNotReady: something before the last event handled is not handled yet, keys are parked, or the group works.
            UsageError: it has handled what the other source does not have.
            StorageUnavailable: whether it was moved is unknown; repeat.
        """
        identity = await self._store.identity()
        async with self._database.connection() as connection:
            fed_by = await connection.fetchval(_READ_GROUP_SOURCE, self._group)
            rows = _rows(await connection.fetch(_LIST_GROUP_POSITIONS, self._group))
        if fed_by is None:
            raise NotFoundError(f"there is no group {self._group!r} here; `headwater groups list` shows all")
        if fed_by == to:
            return MovedGroup(self._group, to, {}, is_changed=False)
        if to == "postgres":
            _require_own(self._group, identity, rows)
        before = await self._positions(fed_by, identity, rows)
        await self._require_handled(identity, before)
        await self._carry_over(to, identity, rows, before)
        return MovedGroup(self._group, to, before.through)

    async def _positions(self, source: Source, identity: LogIdentity, rows: Sequence[_Row]) -> _Positions:
        progress = await PostgresRelayPositions(self._database).load(SHARDS[0])
        return _Positions(
            {row.partition: row.marks.get(identity.log_id, LOG_START) for row in rows},
            source,
            self._prefix,
            await PostgresLogPartitions(self._database).count(),
            progress.topics,
            progress.divisions,
        )

    async def _require_handled(self, identity: LogIdentity, before: _Positions) -> None:
        """Every event up to the last one handled must be handled, in each category."""
        through, after, missing, count = before.through, before.first_to_look_at(), 0, 0
        end = max((last.global_position for last in through.values()), default=0)
        wanted = EventSelection(categories=tuple(through))
        while after < end:
            found = await self._store.read_selected(wanted, after=after, limit=_READ_AT_ONCE)
            for event in found.events:
                position = identity.locate(event.global_position)
                missing += before.mark_for(event.stream_name, position) < position <= through[category_of(event.stream_name)]
            count += len(found.events)
            self._on_progress(count)
            if found.last_read is None:
                break
            after = found.last_read[0]
        if missing:
            raise GroupNotReady(
                f"{self._group!r} has yet to handle {missing:,} messages that come before others which it handled; nothing was changed. Start it with "
                f"source={before.source!r} until it has caught up, end it, and repeat the command"
            )

    async def _carry_over(self, to: Source, identity: LogIdentity, rows: Sequence[_Row], before: _Positions) -> None:
        begins = self._begins(to, before)
        async with self._database.transaction() as connection:
            if await connection.fetchval(_LOCK_GROUP_SOURCE, self._group) != before.source:
                raise GroupNotReady(f"somebody else moved {self._group!r} meanwhile; nothing was changed")
            await connection.execute(_LOCK_GROUP_POSITIONS, self._group)
            if _rows(await connection.fetch(_LIST_GROUP_POSITIONS, self._group)) != rows:
                raise GroupNotReady(f"{self._group!r} works; nothing was changed. End every process that runs it, and repeat the command")
            if parked := await connection.fetchval(_COUNT_GROUP_PARKED, self._group):
                raise GroupNotReady(
                    f"{self._group!r} has {parked:,} parked keys; nothing was changed. Start it, look at `headwater dead-letters list --parked`, "
                    "retry, skip or discard them, and repeat the command"
                )
            await connection.execute(_DELETE_GROUP_POSITIONS, self._group)
            await connection.execute(
                _INSERT_GROUP_POSITIONS,
                self._group,
                [begin.partition.topic for begin in begins],
                [begin.partition.number for begin in begins],
                [begin.next_offset for begin in begins],
                identity.log_id,
                [str(begin.handled) for begin in begins],
                # Above all that ever were: what an owner of long ago still has in hand is refused for ever.
                1 + max((row.epoch for row in rows), default=0),
            )
            await connection.execute(_SET_GROUP_SOURCE, self._group, to)

    def _begins(self, to: Source, before: _Positions) -> list[_Begin]:
        """Every partition of the new source, and where to begin in it."""
        begins: list[_Begin] = []
        for category, last in before.through.items():
            if to == "postgres":
                topic, count, next_offset = log_topic(category), before.log_partition_count, last.global_position + 1
            else:
                # Kafka's offsets tell nothing of positions: its records are read from the first one, and dropped up to the last one handled.
                topic = topic_of(category, self._prefix)
                count, next_offset = self._partition_counts[topic], 0
            begins += [_Begin(Partition(topic, number), next_offset, last) for number in range(count)]
        return begins


class _Begin(NamedTuple):
    """Where a group begins in a partition of its new source."""

    partition: Partition
    next_offset: int
    handled: LogPosition


@dataclass(frozen=True, slots=True)
class _Positions:
    """How far a group got in each partition of the source of before."""

    marks: Mapping[Partition, LogPosition]
    source: Source
    prefix: str
    log_partition_count: int
    partition_counts: Mapping[str, int]
    """Of the topics that were relayed to."""
    divisions: Mapping[str, Sequence[Division]]

    @property
    def through(self) -> Mapping[str, LogPosition]:
        """The last event handled, of each category of which one was."""
        found: dict[str, LogPosition] = {}
        for partition, mark in self.marks.items():
            if mark > LOG_START:
                category = _category(partition.topic, self.prefix)
                found[category] = max(mark, found.get(category, LOG_START))
        return found

    def first_to_look_at(self) -> int:
        """Where the partition that is farthest behind is; at the beginning for one that nobody ever claimed."""
        topics = [self._topic(category) for category in self.through]
        behind = (self.marks.get(Partition(topic, number), LOG_START) for topic in topics for number in range(self._count(topic)))
        return min((mark.global_position for mark in behind), default=0)

    def mark_for(self, stream_name: str, position: LogPosition) -> LogPosition:
        """How far the partition got that has this event."""
        topic = self._topic(category_of(stream_name))
        count = count_at(position, self.divisions.get(topic, ()), self._count(topic))
        return self.marks.get(Partition(topic, partition_of(stream_name.encode(), count)), LOG_START)

    def _topic(self, category: str) -> str:
        return log_topic(category) if self.source == "postgres" else topic_of(category, self.prefix)

    def _count(self, topic: str) -> int:
        if self.source == "postgres":
            return self.log_partition_count
        # Nobody has relayed to it yet where the group was moved to Kafka and has not worked there; then it has a row for each partition.
        return self.partition_counts.get(topic) or 1 + max(partition.number for partition in self.marks if partition.topic == topic)


def _require_own(group: str, identity: LogIdentity, rows: Sequence[_Row]) -> None:
    """Handlers that the log feeds get its own events alone."""
    if foreign := sorted({row.partition.topic for row in rows if row.marks.keys() - {identity.log_id}}):
        raise UsageError(
            f"{group!r} has handled records of other services or producers in {', '.join(foreign)}, which are not in this log; it stays with Kafka"
        )


async def topics_of_group(database: Database, group: str, topic_prefix: str = "") -> frozenset[str]:
    """The topics in Kafka of the categories that a group was fed.

    Raises:
        StorageUnavailable: PostgreSQL does not answer.
    """
    async with database.statement_connection() as connection:
        rows = await connection.fetch(_LIST_GROUP_POSITIONS, group)
    return frozenset(topic_of(_category(row["topic"], topic_prefix), topic_prefix) for row in rows)


def _category(topic: str, prefix: str) -> str:
    return topic.removeprefix(LOG_TOPIC_PREFIX) if source_of(topic) == "postgres" else topic.removeprefix(prefix)


def _rows(found: Sequence[Any]) -> list[_Row]:
    return [_Row(Partition(row["topic"], row["partition"]), row["epoch"], row["next_offset"], decoded_marks(row["marks"])) for row in found]
