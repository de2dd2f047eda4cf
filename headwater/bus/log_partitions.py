"""Into how many partitions the log falls, and where it ends, as its database says."""

from __future__ import annotations

from typing import Final

from headwater.postgres import Database, sql_file

LOG_PARTITION_COUNT: Final = 8
"""Partitions of a log for its consumers, kept in the database at first use; so many processes of one group can work at once, more stand by.

Each costs a row that is updated with nearly every batch, so few are better than many (rule 6)."""

_PACKAGE: Final = "headwater.bus"
_KEEP_PARTITION_COUNT = sql_file(_PACKAGE, "keep_partition_count")
_READ_LOG_END = sql_file(_PACKAGE, "read_log_end")


class PostgresLogPartitions:
    """`LogPartitions` of a database that somebody else opens and closes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def count(self) -> int:
        """What the database keeps; see `LogPartitions.count`."""
        count: int | None = None
        async with self._database.statement_connection() as connection:
            while count is None:  # another process kept it in the same moment, and the statement could not see that yet
                count = await connection.fetchval(_KEEP_PARTITION_COUNT, LOG_PARTITION_COUNT)
        return count

    async def last_position(self) -> int:
        """Of the last committed event; see `LogPartitions.last_position`."""
        async with self._database.statement_connection() as connection:
            return int(await connection.fetchval(_READ_LOG_END))
