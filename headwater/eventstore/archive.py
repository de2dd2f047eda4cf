"""Moving the events of closed streams out of the hot table, in small transactions, while everybody goes on reading and appending."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.errors import StorageError, UsageError
from headwater.messages import check_stream_name
from headwater.postgres import Connection, Database, sql_file

ARCHIVE_BATCH_SIZE: Final = 5_000
"""Events moved in one transaction, at most."""
ARCHIVE_STREAMS_MAX: Final = 1_000
"""Streams locked by one transaction, at most."""
WRITERS_WAIT_SECONDS_MAX: Final = 120.0
"""How long writers that were in flight when the archiving began are waited for: twice what an idle transaction of ours may last."""
WRITERS_POLL_SECONDS: Final = 0.05

_PACKAGE: Final = "headwater.eventstore"
_FIND_UNFIT = sql_file(_PACKAGE, "find_unfit_streams")
_COUNT = sql_file(_PACKAGE, "count_to_archive")
_CHOOSE = sql_file(_PACKAGE, "choose_streams_to_archive")
_MOVE = sql_file(_PACKAGE, "move_events_to_archive")
_MARK = sql_file(_PACKAGE, "mark_streams_archived")
_LIST_LOCKERS = sql_file(_PACKAGE, "list_stream_lockers")


@dataclass(frozen=True, slots=True)
class ArchiveSelection:
    """Which closed streams are meant; what is None leaves out none. Streams that are archived already are passed over."""

    stream_names: tuple[str, ...] | None = None
    category: str | None = None
    closed_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class ArchiveProgress:
    """How far an archiving got."""

    streams_done: int = 0
    events_done: int = 0
    streams_total: int = 0
    events_total: int = 0
    """As counted in the beginning."""


async def archive_streams(
    database: Database,
    selection: ArchiveSelection,
    *,
    progress: Callable[[ArchiveProgress], None] = lambda _: None,
    clock: Clock = SYSTEM_CLOCK,
    batch_size: int = ARCHIVE_BATCH_SIZE,
) -> ArchiveProgress:
    """Move the events of closed streams into `headwater.archived_events`, where every way of reading still finds them.

    Each batch commits by itself: after an interruption, the next call goes on. Several calls at once share the work. Needs the rights of the
    schema's owner. The space in the hot table is used again after the next (auto)vacuum.

    Raises:
        UsageError: a stream named does not exist or is open; nothing was moved.
        StorageError: a writer that was in flight does not end; nothing was moved.
    Source: docs/decisions/0013-growing-old.md
    """
    for name in selection.stream_names or ():
        check_stream_name(name)
    chosen = (list(selection.stream_names) if selection.stream_names is not None else None, selection.category, selection.closed_before)
    async with database.connection() as connection:
        await _refuse_unfit(connection, selection.stream_names or ())
        await _wait_for_writers(connection, clock)
        total = await connection.fetchrow(_COUNT, *chosen)
    assert total is not None, "counting returns one row"
    done = ArchiveProgress(streams_total=total["stream_count"], events_total=total["event_count"])
    progress(done)
    while True:
        async with database.transaction() as connection:
            moved = await _move_batch(connection, chosen, batch_size)
        if moved is None:
            return done
        done = ArchiveProgress(done.streams_done + moved[0], done.events_done + moved[1], done.streams_total, done.events_total)
        progress(done)


async def _refuse_unfit(connection: Connection, stream_names: Sequence[str]) -> None:
    rows = await connection.fetch(_FIND_UNFIT, list(stream_names))
    if not rows:
        return
    name = rows[0]["stream_name"]
    more = f" (and {len(rows) - 1} more)" if len(rows) > 1 else ""
    if rows[0]["is_known"]:
        raise UsageError(f"the stream {name!r}{more} is open; only closed streams can be archived: headwater stream close {name}")
    raise UsageError(f"there is no stream {name!r}{more} to archive")


async def _wait_for_writers(connection: Connection, clock: Clock) -> None:
    """Wait until every transaction has ended that was writing before the chosen streams were found closed.

    One of them may have looked for an event id before another committed it, closed its stream and let it be archived: in the archive no unique
    index would hold the two apart (rule 12).
    """
    older: dict[str, int] = {row["virtual_transaction"]: row["pid"] for row in await connection.fetch(_LIST_LOCKERS)}
    give_up_at = clock.monotonic() + WRITERS_WAIT_SECONDS_MAX
    while older:
        if clock.monotonic() >= give_up_at:
            raise StorageError(
                f"the session with pid {next(iter(older.values()))} has been appending for more than {WRITERS_WAIT_SECONDS_MAX:.0f} seconds; "
                "end it (SELECT pg_terminate_backend(pid)), then archive again"
            )
        await clock.sleep(WRITERS_POLL_SECONDS)
        still = {row["virtual_transaction"] for row in await connection.fetch(_LIST_LOCKERS)}
        older = {name: pid for name, pid in older.items() if name in still}


async def _move_batch(connection: Connection, chosen: Sequence[object], batch_size: int) -> tuple[int, int] | None:
    """How many streams were finished and how many events moved; None when nothing is left for us."""
    ids = [row["stream_id"] for row in await connection.fetch(_CHOOSE, *chosen, ARCHIVE_STREAMS_MAX)]
    if not ids:
        return None
    events = int(await connection.fetchval(_MOVE, ids, batch_size))
    return int(await connection.fetchval(_MARK, ids)), events
