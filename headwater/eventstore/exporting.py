"""The log into a file, or into a pipe: page by page, so that its length does not matter."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.errors import UsageError
from headwater.eventstore.postgres import PostgresEventStore
from headwater.messages import check_category
from headwater.postgres import Connection, Database, sql_file
from headwater.schemas import FileEvent, LogFileFormat, LogFileHeader, LogFileWriter, format_of, open_writer

EXPORT_PAGE_SIZE: Final = 1_000
"""Events read, and held, at once."""
PARTIAL_SUFFIX: Final = ".partial"
"""What a file is called until it is whole."""

_PACKAGE: Final = "headwater.eventstore"
_READ_PAGE = sql_file(_PACKAGE, "read_log_of_categories")
_READ_TAGS = sql_file(_PACKAGE, "read_event_tags")


@dataclass(frozen=True, slots=True)
class ExportProgress:
    """How far an export got."""

    event_count: int
    position: int
    """Of the last event written; in the end, how far the log was read."""
    after: int
    through: int
    """The horizon when the export began: later events are not in the file."""
    header: LogFileHeader


async def export_events(
    database: Database,
    target: Path | BinaryIO,
    *,
    file_format: LogFileFormat | None = None,
    after: int = 0,
    categories: Sequence[str] | None = None,
    progress: Callable[[ExportProgress], None] = lambda _: None,
    clock: Clock = SYSTEM_CLOCK,
) -> ExportProgress:
    """Write the events of the log, archived ones among them, up to its horizon now.

    Appends go on meanwhile. Data is written as the log has it: what is encrypted stays so, and its keys are not in the file. A file appears under
    its name when it is whole; memory does not depend on the length of the log.

    Args:
        target: a path (compressed where it ends in `.gz`; nothing may stand there), or a stream that the caller closes.
        file_format: by default what the path says, JSON lines for a stream.
        after: leave out events up to this position.
        categories: only these; the file then has holes in its positions, and no streams of others.
    Raises:
        UsageError: something stands at the path, or its folder is not there.
        InvalidStreamName: a category could not be one.
    """
    for category in categories or ():
        check_category(category, owner="the export")
    store = PostgresEventStore(database)
    identity, horizon = await store.identity(), await store.horizon()
    header = LogFileHeader(
        log_id=identity.log_id,
        epochs=tuple((epoch.epoch, epoch.began_after) for epoch in identity.epochs),
        after=after,
        through=max(horizon, after),
        categories=tuple(categories) if categories is not None else None,
        exported_at=clock.now(),
    )
    with _opened(target, header, file_format) as writer:
        return await _write_pages(database, writer, header, progress)


async def _write_pages(
    database: Database, writer: LogFileWriter, header: LogFileHeader, progress: Callable[[ExportProgress], None]
) -> ExportProgress:
    assert header.through is not None, "it was set from the horizon"
    done = ExportProgress(0, header.after, header.after, header.through, header)
    progress(done)
    async with database.connection() as connection:
        while page := await _read_page(connection, done.position, header):
            # In a thread: packing takes a while, and the caller's loop may have other things to do.
            await asyncio.to_thread(writer.write, page)
            last = page[-1].position
            assert last is not None, "it comes from the log"
            done = ExportProgress(done.event_count + len(page), last, header.after, header.through, header)
            progress(done)
    writer.finish()
    done = ExportProgress(done.event_count, header.through, header.after, header.through, header)
    progress(done)
    return done


async def _read_page(connection: Connection, after: int, header: LogFileHeader) -> list[FileEvent]:
    categories = list(header.categories) if header.categories is not None else None
    rows = await connection.fetch(_READ_PAGE, after, header.through, EXPORT_PAGE_SIZE, categories)
    tags = {}
    if rows:
        tagged = await connection.fetch(_READ_TAGS, [row["global_position"] for row in rows])
        tags = {row["global_position"]: tuple(row["tags"]) for row in tagged}
    return [
        FileEvent(
            line=0,
            position=row["global_position"],
            stream_name=row["stream_name"],
            version=row["version"],
            type=row["type"],
            event_id=str(row["event_id"]),
            recorded_at=row["recorded_at"],
            metadata=row["metadata"],
            tags=tags.get(row["global_position"], ()),
            data=row["data"],
        )
        for row in rows
    ]


@contextmanager
def _opened(target: Path | BinaryIO, header: LogFileHeader, file_format: LogFileFormat | None) -> Generator[LogFileWriter]:
    if not isinstance(target, Path):
        with open_writer(target, header, file_format or LogFileFormat.JSONL) as writer:
            yield writer
        return
    named, is_gzip = format_of(target.name)
    if target.exists():
        raise UsageError(f"there is something at {target} already; choose another name, or remove it")
    partial = target.with_name(target.name + PARTIAL_SUFFIX)
    try:
        stream = partial.open("wb")
    except OSError as error:
        raise UsageError(f"the file {partial} cannot be written: {error.strerror}") from error
    try:
        with stream, open_writer(stream, header, file_format or named, is_gzip=is_gzip) as writer:
            yield writer
        partial.rename(target)
    finally:
        partial.unlink(missing_ok=True)
