"""What feeds a group of handlers: the log itself, or Kafka. A claim that comes over the other one is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from headwater.bus.log_records import LOG_TOPIC_PREFIX
from headwater.config import Source
from headwater.errors import UsageError
from headwater.postgres import Database, sql_file

_PACKAGE: Final = "headwater.bus"
_READ_GROUP_SOURCE = sql_file(_PACKAGE, "read_group_source")
_LOCK_GROUP_SOURCE = sql_file(_PACKAGE, "lock_group_source")
_LIST_GROUP_POSITIONS = sql_file(_PACKAGE, "list_group_positions")
_LOCK_GROUP_POSITIONS = sql_file(_PACKAGE, "lock_group_positions")
_DELETE_GROUP_POSITIONS = sql_file(_PACKAGE, "delete_group_positions")
_SET_GROUP_SOURCE = sql_file(_PACKAGE, "set_group_source")
_LIST_GROUPS = sql_file(_PACKAGE, "list_groups")


class FedByAnother(UsageError):
    """The group's handlers are fed by another source; with this one every effect would happen a second time."""

    def __init__(self, group: str, fed_by: str, wanted: str) -> None:
        super().__init__(
            f"the handlers of {group!r} are fed by source={fed_by!r}; with source={wanted!r} they would begin at the first event, and every effect would "
            f"happen a second time. Set source={fed_by!r} again, or move them: headwater groups move {group} --to {wanted} (docs/sources.md)"
        )


@dataclass(frozen=True, slots=True)
class HandlerGroup:
    """A group of handlers that has claimed a partition at least once."""

    name: str
    """The service's."""
    source: Source
    since: datetime
    partition_count: int
    """Partitions that it ever claimed."""
    parked_keys: int


def source_of(topic: str) -> Source:
    """Which source has this topic."""
    return "postgres" if topic.startswith(LOG_TOPIC_PREFIX) else "kafka"


async def require_source(database: Database, group: str, source: Source) -> None:
    """Make sure that the group was fed by this source up to now, if it was fed at all; one that has handled nothing changes its source here.

    Raises:
        FedByAnother: its positions mean nothing here.
    """
    async with database.statement_connection() as connection:
        fed_by = await connection.fetchval(_READ_GROUP_SOURCE, group)
    if fed_by in (None, source):
        return
    async with database.transaction() as connection:
        await connection.fetchval(_LOCK_GROUP_SOURCE, group)
        await connection.execute(_LOCK_GROUP_POSITIONS, group)
        # One that was moved and has not worked since is at offset 0, with marks.
        if any(row["next_offset"] or row["marks"] != "{}" for row in await connection.fetch(_LIST_GROUP_POSITIONS, group)):
            raise FedByAnother(group, fed_by, source)
        await connection.execute(_DELETE_GROUP_POSITIONS, group)
        await connection.execute(_SET_GROUP_SOURCE, group, source)


async def list_groups(database: Database) -> Sequence[HandlerGroup]:
    """All groups of this log, by name.

    Raises:
        StorageUnavailable: PostgreSQL does not answer.
    """
    async with database.statement_connection() as connection:
        return [HandlerGroup(*row) for row in await connection.fetch(_LIST_GROUPS)]
