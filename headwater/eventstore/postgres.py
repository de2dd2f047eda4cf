"""The log in PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import asyncpg
import orjson

from headwater.errors import LogDiverged
from headwater.eventstore.selection import EventSelection
from headwater.eventstore.store import (
    READ_BATCH_SIZE,
    SCAN_POSITIONS_MAX,
    VERSION_MAX,
    Checkpoint,
    LogEpoch,
    LogIdentity,
    LogSlice,
    SelectedSlice,
    expected_number,
)
from headwater.messages import AppendResult, Event, ExpectedVersion, NewEvent, RecordedEvent, check_stream_name, prepare
from headwater.postgres import CallerConnection, Connection, Database, driver_connection, sql_file, translate_data_errors, translate_errors

_PACKAGE: Final = "headwater.eventstore"
_APPEND_EVENTS = sql_file(_PACKAGE, "append_events")
_READ_STREAM_FORWARDS = sql_file(_PACKAGE, "read_stream_forwards")
_READ_STREAM_BACKWARDS = sql_file(_PACKAGE, "read_stream_backwards")
_READ_STREAM_VERSION = sql_file(_PACKAGE, "read_stream_version")
_READ_HORIZON = sql_file(_PACKAGE, "read_horizon")
_READ_LOG = sql_file(_PACKAGE, "read_log")
_READ_SELECTED = sql_file(_PACKAGE, "read_selected")
_READ_LAST_EVENT = sql_file(_PACKAGE, "read_last_event")
_OPEN_LOG = sql_file(_PACKAGE, "open_log")
_READ_EVENT_ID = sql_file(_PACKAGE, "read_event_id")


class PostgresEventStore:
    """An `EventStore` over a `Database` that somebody else opens and closes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def append(
        self,
        stream_name: str,
        events: Sequence[Event | NewEvent],
        *,
        expected_version: ExpectedVersion,
        connection: CallerConnection | None = None,
    ) -> AppendResult:
        """Add events to the end of one stream, all of them or none; see `EventStore.append`."""
        expected = expected_number(expected_version)
        prepared = prepare(events, stream_name=stream_name)
        if connection is not None:
            driver = await driver_connection(connection)
            with translate_errors():
                return await _append(driver, stream_name, prepared, expected)
        async with self._database.statement_connection() as own:
            return await _append(own, stream_name, prepared, expected)

    async def read_stream(
        self,
        stream_name: str,
        *,
        from_version: int | None = None,
        backwards: bool = False,
        limit: int | None = None,
        connection: CallerConnection | None = None,
    ) -> AsyncIterator[RecordedEvent]:
        """The stream's events in order of version; see `EventStore.read_stream`."""
        check_stream_name(stream_name)
        statement = _READ_STREAM_BACKWARDS if backwards else _READ_STREAM_FORWARDS
        next_version = from_version if from_version is not None else (VERSION_MAX if backwards else 1)
        remaining = limit if limit is not None else VERSION_MAX
        while remaining > 0:
            wanted = min(remaining, READ_BATCH_SIZE)
            async with self._reading(connection) as reader:
                rows = await reader.fetch(statement, stream_name, next_version, wanted)
            for row in rows:
                yield recorded_event(row)
            if len(rows) < wanted:
                return
            remaining -= len(rows)
            next_version = rows[-1]["version"] + (-1 if backwards else 1)

    async def stream_version(self, stream_name: str, *, connection: CallerConnection | None = None) -> int:
        """How many events the stream has; 0 when it does not exist."""
        check_stream_name(stream_name)
        async with self._reading(connection) as reader:
            return int(await reader.fetchval(_READ_STREAM_VERSION, stream_name))

    async def read_log(self, *, after: int, limit: int = READ_BATCH_SIZE) -> LogSlice:
        """The next events of the whole log, up to the horizon; see `EventStore.read_log`."""
        async with self._database.statement_connection() as connection:
            # Two statements on purpose: the events must be read under a snapshot younger than the horizon.
            horizon: int = await connection.fetchval(_READ_HORIZON)
            rows = await connection.fetch(_READ_LOG, after, horizon, limit) if horizon > after else []
        return LogSlice(events=tuple(recorded_event(row) for row in rows), horizon=horizon)

    async def read_selected(self, selection: EventSelection, *, after: int, limit: int = READ_BATCH_SIZE) -> SelectedSlice:
        """The next events that a selection wants, up to the horizon; see `EventStore.read_selected`."""
        kinds = [list(kind) or None for kind in (selection.categories, selection.types, selection.stream_prefixes)]
        async with self._database.statement_connection() as connection:
            horizon: int = await connection.fetchval(_READ_HORIZON)
            rows = await connection.fetch(_READ_SELECTED, after, horizon, SCAN_POSITIONS_MAX, *kinds, limit) if horizon > after else []
        return _selected_slice(rows, horizon, limit)

    async def last_checkpoint(self) -> Checkpoint:
        """The checkpoint of a reader that has read everything; see `EventStore.last_checkpoint`."""
        async with self._database.statement_connection() as connection:
            horizon = await connection.fetchval(_READ_HORIZON)
            last = await connection.fetchrow(_READ_LAST_EVENT, horizon)
        if last is None:
            return Checkpoint()
        # Asked after the event was read: an epoch that began in between cannot have it on its wrong side, it began at the log's end.
        epoch = (await self.identity()).locate(last["global_position"]).epoch
        return Checkpoint(epoch, last["global_position"], last["event_id"])

    async def horizon(self) -> int:
        """How far the log may be read now."""
        async with self._database.statement_connection() as connection:
            return int(await connection.fetchval(_READ_HORIZON))

    async def identity(self) -> LogIdentity:
        """Which log this is; opens a new epoch when the server, its timeline or the database is another than before."""
        async with self._database.statement_connection() as connection:
            rows = await connection.fetch(_OPEN_LOG)
        return LogIdentity(log_id=rows[0]["log_id"], epochs=tuple(LogEpoch(row["epoch"], row["began_after"]) for row in rows))

    async def verify_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Make sure that the log still holds what this reader read last; see `EventStore.verify_checkpoint`."""
        if checkpoint.global_position == 0:
            return
        async with self._database.statement_connection() as connection:
            found = await connection.fetchval(_READ_EVENT_ID, checkpoint.global_position)
        if found != checkpoint.event_id:
            raise LogDiverged(
                f"the event {checkpoint.event_id} that was read at position {checkpoint.global_position} is not there any more: the log lost its "
                "tail (a failover, or a restored backup). What was built from it must be rebuilt: headwater replay NAME"
            )

    @asynccontextmanager
    async def _reading(self, connection: CallerConnection | None) -> AsyncGenerator[Connection]:
        if connection is None:
            async with self._database.statement_connection() as own:
                yield own
        else:
            driver = await driver_connection(connection)
            with translate_errors():
                yield driver


async def _append(connection: Connection, stream_name: str, events: Sequence[NewEvent], expected: int | None) -> AppendResult:
    with translate_data_errors():
        row = await connection.fetchrow(
            _APPEND_EVENTS,
            stream_name,
            expected,
            [event.type for event in events],
            [event.data for event in events],
            [orjson.dumps(event.metadata).decode() for event in events],
            [event.event_id for event in events],
        )
    assert row is not None, "the function returns one row"
    return AppendResult(stream_name=stream_name, version=row["version"], global_position=row["global_position"])


def _selected_slice(rows: Sequence[asyncpg.Record], horizon: int, limit: int) -> SelectedSlice:
    if not rows:
        return SelectedSlice(events=(), last_read=None, horizon=horizon, is_whole=True)
    events = tuple(recorded_event(row) for row in rows if row["event_id"] is not None)
    if len(events) == limit:
        # What stands behind the last one found was not looked at.
        return SelectedSlice(events, (events[-1].global_position, events[-1].event_id), horizon, is_whole=False)
    last_read = (rows[0]["last_scanned"], rows[0]["last_scanned_id"])
    return SelectedSlice(events, last_read, horizon, is_whole=rows[0]["scanned_through"] >= horizon)


def recorded_event(row: asyncpg.Record) -> RecordedEvent:
    """The event that a row holds."""
    return RecordedEvent(
        global_position=row["global_position"],
        stream_name=row["stream_name"],
        version=row["version"],
        type=row["type"],
        data=row["data"],
        metadata=orjson.loads(row["metadata"]),
        event_id=row["event_id"],
        recorded_at=row["recorded_at"],
    )
