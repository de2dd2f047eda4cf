"""A file of a log into this log: in batches through COPY, each of them an append like any other.

A batch follows rule 7: its streams are locked, what is stored already is left out, versions are compared, and only then positions are drawn
under the append lock. So readers skip nothing, a killed import goes on when it is run again, and a bad line keeps its batch out.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Final

from headwater.clock import SYSTEM_CLOCK
from headwater.errors import DuplicateEvent, ImportRefused, InvalidEvent, LogFileDamaged, UsageError
from headwater.messages import EVENT_BYTES_MAX
from headwater.postgres import Connection, Database, log_schema, sql_file, translate_data_errors, translate_errors
from headwater.schemas import FileEvent, LogFileHeader, LogFileReader, open_reader

IMPORT_BATCH_SIZE: Final = 5_000
"""Events stored in one transaction, at most. While it is stored, some tens of milliseconds, later appends wait to be read."""
IMPORT_BATCH_BYTES: Final = 8 * 1024 * 1024
"""Data of one batch, about; two are held at once."""
READ_SLICE_SIZE: Final = 250
"""Events read from the file before other tasks have their turn."""
_COLUMNS: Final = ("global_position", "stream_id", "version", "type", "data", "metadata", "event_id", "recorded_at")
_COPY_LINE: Final = re.compile(r"COPY \w+, line (\d+)")

_PACKAGE: Final = "headwater.eventstore"
_PREFER_INDEXES = sql_file(_PACKAGE, "prefer_indexes")
_INSERT_STREAMS = sql_file(_PACKAGE, "insert_missing_streams")
_LOCK_STREAMS = sql_file(_PACKAGE, "lock_streams")
_FIND_STORED = sql_file(_PACKAGE, "find_stored_events")
_READ_VERSIONS = sql_file(_PACKAGE, "read_stream_versions")
_TAKE_APPEND_LOCK = sql_file(_PACKAGE, "take_append_lock")
_DRAW_POSITIONS = sql_file(_PACKAGE, "draw_positions")
_FIND_TOO_LARGE = sql_file(_PACKAGE, "find_event_too_large")
_SHARE_SCOPES = sql_file(_PACKAGE, "share_scopes")


@dataclass(frozen=True, slots=True)
class ImportProgress:
    """How far an import got."""

    header: LogFileHeader
    stored_count: int = 0
    known_count: int = 0
    """Events that the log had already."""
    last_position: int | None = None
    """Of the last event stored; None before the first."""

    @property
    def event_count(self) -> int:
        return self.stored_count + self.known_count


async def import_events(
    database: Database,
    source: Path | BinaryIO,
    *,
    progress: Callable[[ImportProgress], None] = lambda _: None,
    batch_size: int = IMPORT_BATCH_SIZE,
) -> ImportProgress:
    """Store the events of a file, at new positions in the order of the file; ids, versions, moments, metadata and tags stay as they were.

    Each batch commits by itself, and events that the log has already are passed over: an import that was interrupted goes on when it is
    repeated. Others may append and read meanwhile. Needs the rights of the schema's owner. Memory does not depend on the length of the file.

    Args:
        source: a path, or a stream, which is closed; JSON lines or Avro, compressed or not, seen from its first bytes.
    Raises:
        LogFileDamaged: a line cannot be believed, or the file was cut off. Batches before it are stored.
        ImportRefused: a line does not follow on its stream here, its stream is closed, or its id is another event's. Batches before it are stored.
        UsageError: the file cannot be opened.
        StorageUnavailable: PostgreSQL went away; repeat.
    Source: docs/decisions/0013-growing-old.md
    """
    with _opened(source) as stream:
        reader = open_reader(stream)
        connection = await database.connect()
        try:
            with translate_errors():
                return await _Import(connection, reader, progress, batch_size).run()
        finally:
            await connection.close()


class _Import:
    def __init__(self, connection: Connection, reader: LogFileReader, progress: Callable[[ImportProgress], None], batch_size: int) -> None:
        self._connection, self._reader, self._progress, self._batch_size = connection, reader, progress, batch_size
        self._ahead: asyncio.Task[list[FileEvent]] | None = None

    async def run(self) -> ImportProgress:
        done = ImportProgress(self._reader.header)
        self._progress(done)
        await self._connection.fetchrow(_PREFER_INDEXES)
        batch = await self._read()
        while batch:
            try:
                async with self._connection.transaction(isolation="read_committed"):
                    done = await self._store(batch, done)
            except BaseException:
                await self._stop_reading()
                raise
            self._progress(done)
            batch = await self._next_batch()
        return done

    async def _next_batch(self) -> list[FileEvent]:
        ahead, self._ahead = self._ahead, None
        return await ahead if ahead is not None else await self._read()

    async def _stop_reading(self) -> None:
        if self._ahead is not None:
            self._ahead.cancel()
            await asyncio.gather(self._ahead, return_exceptions=True)

    async def _read(self) -> list[FileEvent]:
        """The next batch, in slices between which other tasks run. A thread would make every answer of PostgreSQL wait for its turn."""
        batch: list[FileEvent] = []
        size = 0
        while len(batch) < self._batch_size and size < IMPORT_BATCH_BYTES:
            await SYSTEM_CLOCK.sleep(0)
            events = self._reader.read(min(READ_SLICE_SIZE, self._batch_size - len(batch)), IMPORT_BATCH_BYTES - size)
            if not events:
                break
            batch += events
            size += sum(len(event.data) for event in events)
        return batch

    async def _store(self, batch: Sequence[FileEvent], done: ImportProgress) -> ImportProgress:
        """Locks, ids, versions, positions, in this order, each in a statement that sees what the one before waited for."""
        await self._connection.fetchrow(
            _SHARE_SCOPES, list({event.type for event in batch}), list({tag for event in batch for tag in event.tags})
        )
        names = list({event.stream_name for event in batch})
        await self._connection.execute(_INSERT_STREAMS, names)
        streams = {row["stream_name"]: row for row in await self._connection.fetch(_LOCK_STREAMS, names)}
        stored = {str(row["event_id"]): row for row in await self._connection.fetch(_FIND_STORED, [event.event_id for event in batch])}
        fresh = _without_stored(batch, stored)
        done = replace(done, known_count=done.known_count + len(batch) - len(fresh))
        if not fresh:
            return done
        await self._check_fit(fresh, streams)
        await self._connection.fetchrow(_TAKE_APPEND_LOCK)
        positions: list[int] = await self._connection.fetchval(_DRAW_POSITIONS, len(fresh))
        await self._copy(fresh, positions, {name: row["stream_id"] for name, row in streams.items()})
        return replace(done, stored_count=done.stored_count + len(fresh), last_position=positions[-1])

    async def _check_fit(self, fresh: Sequence[FileEvent], streams: Mapping[str, Any]) -> None:
        names = {event.stream_name for event in fresh}
        ids = {streams[name]["stream_id"]: name for name in names}
        versions = {ids[row["stream_id"]]: int(row["version"]) for row in await self._connection.fetch(_READ_VERSIONS, list(ids))}
        closed = {name for name in names if streams[name]["closed_at"] is not None}
        for event in fresh:
            expected = versions[event.stream_name] = versions[event.stream_name] + 1
            if event.version != expected or event.stream_name in closed:
                raise _unfit(event, expected, streams[event.stream_name]["closed_at"])

    async def _copy(self, fresh: Sequence[FileEvent], positions: Sequence[int], stream_ids: Mapping[str, int]) -> None:
        records = [
            (
                position,
                stream_ids[event.stream_name],
                event.version,
                event.type,
                event.data,
                event.metadata,
                event.event_id,
                event.recorded_at,
            )
            for position, event in zip(positions, fresh, strict=True)
        ]
        # The next batch is read while PostgreSQL takes this one in; what is wrong with it is said when this one is stored.
        self._ahead = asyncio.create_task(self._read())
        with _naming_lines(fresh):
            await self._connection.copy_records_to_table(
                "events", schema_name=log_schema(self._connection), columns=_COLUMNS, records=records
            )
        large = await self._connection.fetchrow(_FIND_TOO_LARGE, positions[0], positions[-1], EVENT_BYTES_MAX)
        if large is not None:
            line = fresh[positions.index(large["global_position"])].line
            raise LogFileDamaged(
                f"line {line}: its data takes {large['data_bytes']:,} bytes as JSON; at most {EVENT_BYTES_MAX:,} are allowed", line=line
            )
        tags = [(tag, position) for position, event in zip(positions, fresh, strict=True) for tag in event.tags]
        if tags:
            await self._connection.copy_records_to_table(
                "event_tags", schema_name=log_schema(self._connection), columns=("tag", "global_position"), records=tags
            )


def _without_stored(batch: Sequence[FileEvent], stored: Mapping[str, Any]) -> Sequence[FileEvent]:
    """What the log does not have yet; refuses an id that is another event's, here or in this batch."""
    lines: dict[str, int] = {}
    for event in batch:
        if (first := lines.setdefault(event.event_id, event.line)) != event.line:
            raise LogFileDamaged(f"line {event.line} has the event id {event.event_id}, as line {first} has", line=event.line)
        found = stored.get(event.event_id) if stored else None
        if found is not None and (found["stream_name"], found["version"], found["type"]) != (event.stream_name, event.version, event.type):
            raise ImportRefused(
                f"line {event.line} has the id {event.event_id}, which another event of this log has: version {found['version']} of the stream "
                f"{found['stream_name']!r}",
                line=event.line,
            )
    return [event for event in batch if event.event_id not in stored] if stored else batch


def _unfit(event: FileEvent, expected: int, closed_at: object) -> ImportRefused:
    if closed_at is not None:
        return ImportRefused(f"line {event.line}: the stream {event.stream_name!r} was closed here at {closed_at}", line=event.line)
    return ImportRefused(
        f"line {event.line} is version {event.version} of the stream {event.stream_name!r}, but here version {expected} comes next: "
        "the file begins too late, or the stream went on by itself. Import into an empty log, or into one that holds what came before",
        line=event.line,
    )


@contextmanager
def _naming_lines(fresh: Sequence[FileEvent]) -> Generator[None]:
    """What PostgreSQL says about a row of the COPY, said about the file's line."""
    try:
        with translate_errors(), translate_data_errors():
            yield
    except InvalidEvent as error:
        found = _COPY_LINE.search(str(getattr(error.__cause__, "context", None)))
        line = fresh[int(found[1]) - 1].line if found else None
        where = f"line {line}" if line is not None else f"a line between {fresh[0].line} and {fresh[-1].line}"
        raise LogFileDamaged(f"{where}: {error}", line=line) from error
    except DuplicateEvent as error:
        # Its twin was committed, to another stream, after the ids were looked up.
        raise ImportRefused(f"between the lines {fresh[0].line} and {fresh[-1].line}: {error}", line=fresh[0].line) from error


@contextmanager
def _opened(source: Path | BinaryIO) -> Generator[BinaryIO]:
    if not isinstance(source, Path):
        yield source
        return
    try:
        stream = source.open("rb")
    except OSError as error:
        raise UsageError(f"the file {source} cannot be read: {error.strerror}") from error
    with stream:
        yield stream
