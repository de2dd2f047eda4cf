"""`headwater stream close` and `headwater stream archive`: what happens to streams that have come to their end."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from headwater.cli.database import open_database
from headwater.cli.output import JsonOption, can_ask, print_json, shown
from headwater.cli.running import run_async
from headwater.errors import UsageError

if TYPE_CHECKING:
    from headwater.eventstore import ArchiveProgress, ArchiveSelection


def close_command(
    stream_name: Annotated[str, typer.Argument(metavar="NAME", help="The stream's name, like order-1.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Close a stream for good: it stays readable, and every further append to it fails with StreamClosed.

    Asks first; where nobody can be asked, and with --json, --yes must be given. Example: `headwater stream close order-1`
    """
    if not yes and not can_ask(json_output=json_output):
        raise UsageError(f"this would close {stream_name} for good, and nobody can be asked; repeat it with --yes")
    if not yes:
        typer.confirm(f"close {stream_name} for good? It cannot be opened again.", abort=True)
    run_async(_close(stream_name, json_output=json_output))


def archive_command(
    stream_names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]…", help="Closed streams, like order-1.")] = None,
    category: Annotated[str | None, typer.Option("--category", "-c", help="All closed streams of this category.")] = None,
    closed_before: Annotated[
        str | None, typer.Option("--closed-before", metavar="DATE", help="Only streams closed before it, like 2026-01-31 (UTC).")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Move the events of closed streams out of the hot table. Everything that reads the log still finds them.

    May be interrupted; the next call goes on. Example: `headwater stream archive --category order --closed-before 2026-01-31`
    """
    from headwater.eventstore import ArchiveSelection

    if bool(stream_names) == (category is not None):
        raise UsageError("which streams? give their names, or --category C, with --closed-before DATE")
    if stream_names and closed_before is not None:
        raise UsageError("--closed-before goes with --category; streams named are archived whenever they were closed")
    if category is not None and closed_before is None:
        raise UsageError(f"closed before when? --category {category} needs --closed-before DATE, like 2026-01-31")
    moment = _moment(closed_before) if closed_before is not None else None
    selection = ArchiveSelection(tuple(stream_names) if stream_names else None, category, moment)
    run_async(_archive(selection, json_output=json_output))


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{text!r} is no date; write 2026-01-31, or 2026-01-31T12:00:00Z") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


async def _close(stream_name: str, *, json_output: bool) -> None:
    from headwater.eventstore import PostgresEventStore

    async with open_database() as database:
        closed = await PostgresEventStore(database).close_stream(stream_name)
    if json_output:
        print_json({"stream_name": closed.stream_name, "version": closed.version, "closed_at": closed.closed_at})
    else:
        print(f"{closed.stream_name} is closed since {shown(closed.closed_at)}, at version {closed.version:,}")


async def _archive(selection: ArchiveSelection, *, json_output: bool) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from headwater.eventstore import archive_streams

    columns = (TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("events"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=json_output or not sys.stderr.isatty()) as bar:
        task = bar.add_task("archive", total=None)

        def show(progress: ArchiveProgress) -> None:
            bar.update(task, completed=progress.events_done, total=progress.events_total)

        async with open_database() as database:
            done = await archive_streams(database, selection, progress=show)
    if json_output:
        print_json({"stream_count": done.streams_done, "event_count": done.events_done})
    elif done.streams_done:
        print(f"{done.events_done:,} events of {done.streams_done:,} streams are in the archive now")
    else:
        print("no stream to archive: none is closed that was not archived before")
