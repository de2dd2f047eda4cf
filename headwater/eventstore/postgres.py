"""The log in PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson

from headwater.clock import SYSTEM_CLOCK
from headwater.errors import AppendBlocked, LockTimeout, LogDiverged, StreamNotFound
from headwater.eventstore.appending import Arrays, Unit, one_part, results, several_parts
from headwater.eventstore.conditions import AppendCondition, EventQuery, Matching, queries_of, token_of
from headwater.eventstore.group import appender_of
from headwater.eventstore.selection import EventSelection
from headwater.eventstore.store import (
    READ_BATCH_SIZE,
    SCAN_POSITIONS_MAX,
    VERSION_MAX,
    Checkpoint,
    ClosedStream,
    LogEpoch,
    LogIdentity,
    LogSlice,
    SelectedSlice,
    StreamAppend,
)
from headwater.messages import AppendResult, Event, ExpectedVersion, NewEvent, RecordedEvent, check_stream_name, make_recorded_event
from headwater.postgres import CallerConnection, Connection, Database, sql_file, translate_data_errors, translate_errors
from headwater.randomness import SYSTEM_RANDOMNESS

CONDITION_LOCK_MILLISECONDS: Final = 100
"""How long a conditional append queues for its types and tags at a time: everybody else who appends them queues behind it."""
EVENT_COLUMNS: Final = 8
"""What a statement returns of an event."""
SELECTED_COLUMNS: Final = 3
"""What read_selected returns before an event's columns."""
CONDITION_SECONDS_MAX: Final = 10.0
"""How long a conditional append tries."""

_PACKAGE: Final = "headwater.eventstore"
_APPEND_UNIT = sql_file(_PACKAGE, "append_unit")
_APPEND_CONDITIONALLY = sql_file(_PACKAGE, "append_conditionally")
_LIMIT_LOCK_WAIT = sql_file(_PACKAGE, "limit_lock_wait")
_READ_MATCHING = sql_file(_PACKAGE, "read_matching")
_READ_STREAM_FORWARDS = sql_file(_PACKAGE, "read_stream_forwards")
_READ_STREAM_BACKWARDS = sql_file(_PACKAGE, "read_stream_backwards")
_READ_STREAM_VERSION = sql_file(_PACKAGE, "read_stream_version")
_READ_HORIZON = sql_file(_PACKAGE, "read_horizon")
_READ_LOG = sql_file(_PACKAGE, "read_log")
_READ_LOG_WITH_ARCHIVE = sql_file(_PACKAGE, "read_log_with_archive")
_CLOSE_STREAM = sql_file(_PACKAGE, "close_stream")
_READ_SELECTED = sql_file(_PACKAGE, "read_selected")
_READ_LAST_EVENT = sql_file(_PACKAGE, "read_last_event")
_OPEN_LOG = sql_file(_PACKAGE, "open_log")
_READ_EVENT_ID = sql_file(_PACKAGE, "read_event_id")
_READ_EVENT_WITH_ID = sql_file(_PACKAGE, "read_event_with_id")


class PostgresEventStore:
    """An `EventStore` over a `Database` that somebody else opens and closes."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._group = appender_of(database)
        self._conditional: set[asyncio.Task[tuple[AppendResult, ...]]] = set()
        database.before_closing(self._finish_conditional)
        self._archived_through = 0  # a hint, for which statement to try first

    async def append(
        self,
        stream_name: str,
        events: Sequence[Event | NewEvent],
        *,
        expected_version: ExpectedVersion,
        connection: CallerConnection | None = None,
    ) -> AppendResult:
        """Add events to the end of one stream, all of them or none; see `EventStore.append`."""
        unit = (one_part(stream_name, events, expected_version),)
        stored = await (self._group.append(unit) if connection is None else _append_in(await self._joined(connection), unit, None))
        return stored[0]

    async def append_to_streams(
        self,
        appends: Sequence[StreamAppend],
        *,
        condition: AppendCondition | None = None,
        connection: CallerConnection | None = None,
    ) -> tuple[AppendResult, ...]:
        """Add events to the ends of several streams, all of them or none; see `EventStore.append_to_streams`."""
        unit = several_parts(appends)
        if connection is not None:
            return await _append_in(await self._joined(connection), unit, condition)
        if condition is None:
            return await self._group.append(unit)
        # In a task of its own: a caller's cancellation does not reach the commit.
        task = asyncio.create_task(self._append_conditionally(unit, condition))
        self._conditional.add(task)
        task.add_done_callback(self._conditional.discard)
        return await asyncio.shield(task)

    async def _append_conditionally(self, unit: Unit, condition: AppendCondition) -> tuple[AppendResult, ...]:
        deadline = SYSTEM_CLOCK.monotonic() + CONDITION_SECONDS_MAX
        while True:
            try:
                async with self._database.transaction() as connection:
                    await connection.execute(_LIMIT_LOCK_WAIT, f"{CONDITION_LOCK_MILLISECONDS}ms")
                    return await _append_in(connection, unit, condition)
            except LockTimeout as error:
                if SYSTEM_CLOCK.monotonic() > deadline:
                    raise AppendBlocked(
                        "another open transaction appended what the condition asks for, or holds a stream, and does not end; nothing was stored: "
                        "end that transaction (headwater log stats names it), then repeat the append",
                        stream_names=tuple(part.stream_name for part in unit),
                    ) from error
            await SYSTEM_CLOCK.sleep(SYSTEM_RANDOMNESS.uniform(0, CONDITION_LOCK_MILLISECONDS / 1000))

    async def _joined(self, connection: CallerConnection) -> Connection:
        driver = await self._database.joined(connection)
        await self._database.compare_log(driver)
        return driver

    async def _finish_conditional(self) -> None:
        await asyncio.gather(*self._conditional, return_exceptions=True)

    async def read_matching(self, query: EventQuery | Sequence[EventQuery], *, connection: CallerConnection | None = None) -> Matching:
        """What a decision over several streams depends on; see `EventStore.read_matching`."""
        given = _query_text(queries_of(query))
        async with self._reading(connection) as reader:
            # First how far it is sure, then what there is: a statement of its own, with a younger snapshot.
            horizon: int = await reader.fetchval(_READ_HORIZON)
            rows = await reader.fetch(_READ_MATCHING, given, 0)
        events = tuple([recorded_event(row) for row in rows])
        return Matching(events, token_of(horizon, events))

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

    async def find_event(self, event_id: UUID, *, connection: CallerConnection | None = None) -> RecordedEvent | None:
        """The event with this id, if one is stored; see `EventStore.find_event`."""
        async with self._reading(connection) as reader:
            row = await reader.fetchrow(_READ_EVENT_WITH_ID, event_id)
        return None if row is None else recorded_event(row)

    async def read_log(self, *, after: int, limit: int = READ_BATCH_SIZE, horizon: int | None = None) -> LogSlice:
        """The next events of the whole log, up to the horizon; see `EventStore.read_log`."""
        async with self._database.statement_connection() as connection:
            # Two statements on purpose: the events must be read under a snapshot younger than the horizon.
            known: int = await connection.fetchval(_READ_HORIZON) if horizon is None else horizon
            rows: Sequence[asyncpg.Record] = await self._read_rows(connection, after, known, limit) if known > after else ()
        return LogSlice(events=tuple([recorded_event(row) for row in rows]), horizon=known)

    async def _read_rows(self, connection: Connection, after: int, horizon: int, limit: int) -> Sequence[asyncpg.Record]:
        """One page, from the hot table alone where its own snapshot says that nothing behind `after` is archived: reading both costs a tenth more."""
        if after >= self._archived_through:
            rows = await connection.fetch(_READ_LOG, after, horizon, limit)
            self._archived_through = rows[0]["archived_through"] if rows else self._archived_through
            if rows and self._archived_through <= after:
                return rows
        return await connection.fetch(_READ_LOG_WITH_ARCHIVE, after, horizon, limit)

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

    async def close_stream(self, stream_name: str, *, connection: CallerConnection | None = None) -> ClosedStream:
        """Close a stream for good; see `EventStore.close_stream`."""
        check_stream_name(stream_name)
        async with self._reading(connection) as own:
            row = await own.fetchrow(_CLOSE_STREAM, stream_name)
        if row is None:
            raise StreamNotFound(f"there is no stream {stream_name!r} to close")
        return ClosedStream(stream_name=stream_name, version=row["version"], closed_at=row["closed_at"])

    @asynccontextmanager
    async def _reading(self, connection: CallerConnection | None) -> AsyncGenerator[Connection]:
        if connection is None:
            async with self._database.statement_connection() as own:
                yield own
        else:
            driver = await self._database.joined(connection)
            with translate_errors():
                yield driver


async def _append_in(driver: Connection, unit: Unit, condition: AppendCondition | None) -> tuple[AppendResult, ...]:
    """Append inside an open transaction, waiting for what others hold."""
    arguments = Arrays.of([unit]).for_unit()
    with translate_errors(), translate_data_errors():
        if condition is None:
            row = await driver.fetchrow(_APPEND_UNIT, *arguments)
        else:
            token = condition.token
            row = await driver.fetchrow(
                _APPEND_CONDITIONALLY, _query_text(queries_of(condition.query)), token.horizon, list(token.known_ids), *arguments
            )
    assert row is not None, "the function returns one row"
    return results(unit, row["versions"], row["positions"])


def _query_text(queries: Sequence[EventQuery]) -> str:
    return orjson.dumps([{"types": query.types, "tags": query.tags} for query in queries]).decode()


def _selected_slice(rows: Sequence[asyncpg.Record], horizon: int, limit: int) -> SelectedSlice:
    if not rows:
        return SelectedSlice(events=(), last_read=None, horizon=horizon, is_whole=True)
    events = tuple(recorded_event(row[SELECTED_COLUMNS:]) for row in rows if row["event_id"] is not None)
    if len(events) == limit:
        # What stands behind the last one found was not looked at.
        return SelectedSlice(events, (events[-1].global_position, events[-1].event_id), horizon, is_whole=False)
    last_read = (rows[0]["last_scanned"], rows[0]["last_scanned_id"])
    return SelectedSlice(events, last_read, horizon, is_whole=rows[0]["scanned_through"] >= horizon)


def recorded_event(row: asyncpg.Record | tuple[Any, ...]) -> RecordedEvent:
    """The event that a row holds: its columns come first, in the order of the fields of `RecordedEvent`."""
    global_position, stream_name, version, event_type, data, metadata, event_id, recorded_at = row[:EVENT_COLUMNS]
    return make_recorded_event(global_position, stream_name, version, event_type, data, orjson.loads(metadata), event_id, recorded_at)
