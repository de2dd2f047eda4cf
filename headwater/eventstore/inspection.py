"""The log as an operator looks at it: single events, its end, what is in it, and who holds it up. Reads only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from headwater.errors import NotFoundError
from headwater.eventstore.postgres import recorded_event
from headwater.messages import RecordedEvent
from headwater.postgres import Database, sql_file

LAG_COUNT_MAX: Final = 1_000_000
"""Events counted between two positions, at most: a lag above it is told as that much or more."""
WRITERS_LISTED_MAX: Final = 100

_PACKAGE: Final = "headwater.eventstore"
_READ_HORIZON = sql_file(_PACKAGE, "read_horizon")
_READ_EVENT_AT = sql_file(_PACKAGE, "read_event_at")
_READ_EVENT_WITH_ID = sql_file(_PACKAGE, "read_event_with_id")
_READ_LAST_EVENTS = sql_file(_PACKAGE, "read_last_events")
_READ_LAST_POSITION = sql_file(_PACKAGE, "read_last_position")
_COUNT_EVENTS = sql_file(_PACKAGE, "count_events")
_COUNT_EVENTS_BY_TYPE = sql_file(_PACKAGE, "count_events_by_type")
_COUNT_STREAMS_BY_CATEGORY = sql_file(_PACKAGE, "count_streams_by_category")
_LIST_TABLE_SIZES = sql_file(_PACKAGE, "list_table_sizes")
_LIST_EPOCHS = sql_file(_PACKAGE, "list_epochs")
_READ_LAST_DRAWN = sql_file(_PACKAGE, "read_last_drawn")
_LIST_WRITERS = sql_file(_PACKAGE, "list_writers")


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events are meant; what is None leaves out nothing."""

    category: str | None = None
    type: str | None = None
    stream_name: str | None = None

    def matches(self, event: RecordedEvent) -> bool:
        """Whether the event is one of those meant."""
        return self.category in (None, event.category) and self.type in (None, event.type) and self.stream_name in (None, event.stream_name)


@dataclass(frozen=True, slots=True)
class TypeCount:
    """The events of one type in one category."""

    category: str
    type: str
    event_count: int
    archived_count: int
    """How many of them are in the archive."""
    stored_bytes: int
    """Their data and metadata as PostgreSQL keeps them (large values compressed), without rows' overhead and indexes."""
    last_recorded_at: datetime


@dataclass(frozen=True, slots=True)
class CategoryCount:
    """The streams of one category, and what their events take."""

    category: str
    stream_count: int
    closed_count: int
    """How many of them take no further events, archived ones included."""
    archived_count: int
    event_count: int
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class TableSize:
    """What one of Headwater's tables takes on disk."""

    table_name: str
    total_bytes: int
    """With indexes and large values."""
    index_bytes: int
    row_estimate: int | None
    """PostgreSQL's estimate; None before it made one."""


@dataclass(frozen=True, slots=True)
class WriterInFlight:
    """A transaction that has appended and not ended."""

    position: int
    """The horizon stops here until it ends."""
    began_at: datetime | None
    """None where this user may not see it."""
    pid: int | None
    """None for a prepared transaction."""
    state: str | None
    application_name: str | None
    prepared_name: str | None
    """The name to COMMIT PREPARED or ROLLBACK PREPARED."""


@dataclass(frozen=True, slots=True)
class EpochFacts:
    """One life of the log, and when it began."""

    epoch: int
    began_after: int
    began_at: datetime


@dataclass(frozen=True, slots=True)
class LogStats:
    """What is in the log, and how far it can be read."""

    log_id: UUID | None
    """None before a service opened it."""
    epochs: tuple[EpochFacts, ...]
    types: tuple[TypeCount, ...]
    """Most events first."""
    categories: tuple[CategoryCount, ...]
    """By name."""
    tables: tuple[TableSize, ...]
    last_position: int
    """Of the last event that can be read."""
    horizon: int
    last_drawn: int
    """The highest position that a writer drew, stored or not."""
    writers: tuple[WriterInFlight, ...]
    """Lowest position first; not more than `WRITERS_LISTED_MAX`."""

    @property
    def event_count(self) -> int:
        return sum(counted.event_count for counted in self.types)

    @property
    def stream_count(self) -> int:
        return sum(counted.stream_count for counted in self.categories)

    @property
    def archived_event_count(self) -> int:
        return sum(counted.archived_count for counted in self.types)

    @property
    def closed_stream_count(self) -> int:
        return sum(counted.closed_count for counted in self.categories)

    @property
    def archived_stream_count(self) -> int:
        return sum(counted.archived_count for counted in self.categories)

    @property
    def holder(self) -> WriterInFlight | None:
        """The writer that keeps later events from being read, if there is one."""
        return self.writers[0] if self.writers and self.horizon < self.last_drawn else None


class LogInspection:
    """Looks at the log of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, position_or_id: int | UUID) -> RecordedEvent:
        """One event, by its position or its id.

        Raises:
            NotFoundError: there is none.
        """
        statement = _READ_EVENT_AT if isinstance(position_or_id, int) else _READ_EVENT_WITH_ID
        async with self._database.connection() as connection:
            row = await connection.fetchrow(statement, position_or_id)
        if row is None:
            what = f"at position {position_or_id}" if isinstance(position_or_id, int) else f"with the id {position_or_id}"
            raise NotFoundError(f"the log has no event {what}; the last ones are shown by: headwater log tail --no-follow")
        return recorded_event(row)

    async def last_events(self, chosen: EventFilter, *, horizon: int, limit: int) -> tuple[RecordedEvent, ...]:
        """The last events that the filter finds, up to a horizon, in order. A rare kind is looked for through the whole log."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(_READ_LAST_EVENTS, horizon, chosen.category, chosen.type, chosen.stream_name, limit)
        return tuple(recorded_event(row) for row in reversed(rows))

    async def last_position(self, horizon: int) -> int:
        """The position of the last event at or below the horizon: from here a reader goes on."""
        async with self._database.connection() as connection:
            return int(await connection.fetchval(_READ_LAST_POSITION, horizon))

    async def count_between(self, after: int, through: int, *, limit: int = LAG_COUNT_MAX) -> int:
        """How many events lie above one position and at or below another, or the limit where there are more."""
        async with self._database.connection() as connection:
            return int(await connection.fetchval(_COUNT_EVENTS, after, through, limit))

    async def stats(self) -> LogStats:
        """Everything about the log in numbers. Counts every event, which takes a while where there are many."""
        async with self._database.connection() as connection:
            last_drawn = int(await connection.fetchval(_READ_LAST_DRAWN))
            writers = await connection.fetch(_LIST_WRITERS, last_drawn, WRITERS_LISTED_MAX)
            horizon = int(await connection.fetchval(_READ_HORIZON))
            epochs = await connection.fetch(_LIST_EPOCHS)
            types = await connection.fetch(_COUNT_EVENTS_BY_TYPE)
            streams = await connection.fetch(_COUNT_STREAMS_BY_CATEGORY)
            tables = await connection.fetch(_LIST_TABLE_SIZES)
            last_position = int(await connection.fetchval(_READ_LAST_POSITION, horizon))
        return LogStats(
            log_id=epochs[-1]["log_id"] if epochs else None,
            epochs=tuple(EpochFacts(row["epoch"], row["began_after"], row["began_at"]) for row in epochs),
            types=tuple(counted := [TypeCount(*row.values()) for row in types]),
            categories=tuple(_category(row, counted) for row in streams),
            tables=tuple(
                TableSize(
                    row["table_name"], row["total_bytes"], row["index_bytes"], row["row_estimate"] if row["row_estimate"] >= 0 else None
                )
                for row in tables
            ),
            last_position=last_position,
            horizon=horizon,
            last_drawn=last_drawn,
            writers=tuple(WriterInFlight(*row.values()) for row in writers),
        )


def _category(row: Any, types: Sequence[TypeCount]) -> CategoryCount:
    own = [counted for counted in types if counted.category == row["category"]]
    return CategoryCount(
        category=row["category"],
        stream_count=row["stream_count"],
        closed_count=row["closed_count"],
        archived_count=row["archived_count"],
        event_count=sum(counted.event_count for counted in own),
        stored_bytes=sum(counted.stored_bytes for counted in own),
    )
