"""`headwater log export` and `headwater log import`: a log into a file, and a file into a log."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Final, cast

import typer

from headwater.cli.database import open_database
from headwater.cli.output import JsonOption, print_json
from headwater.cli.running import run_async
from headwater.clock import SYSTEM_CLOCK
from headwater.errors import HeadwaterError, UsageError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from headwater.eventstore import ExportProgress, ImportProgress
    from headwater.schemas import LogFileHeader

STANDARD: Final = "-"
"""Standard input or output, where a file is named."""


class FileFormat(StrEnum):
    """What `--format` may be."""

    JSONL = "jsonl"
    AVRO = "avro"


def export_command(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Where to; - for standard output. Compressed where it ends in .gz.")],
    file_format: Annotated[FileFormat | None, typer.Option("--format", help="By default avro for *.avro, else jsonl.")] = None,
    after: Annotated[int, typer.Option("--after", min=0, help="Only events behind this position.")] = 0,
    category: Annotated[list[str] | None, typer.Option("--category", "-c", help="Only this category; may be repeated.")] = None,
    json_output: JsonOption = False,
) -> None:
    """Write the log into a file, up to where it can be read now; appends go on meanwhile.

    What is encrypted stays so, and its keys are not in the file. Example: `headwater log export log.jsonl.gz`
    """
    if json_output and file == STANDARD:
        raise UsageError("--json and the log cannot both go to standard output; name a file")
    run_async(_export(file, file_format, after, category or None, json_output=json_output))


def import_command(
    file: Annotated[str, typer.Argument(metavar="FILE", help="What `log export` wrote, in any format; - for standard input.")],
    json_output: JsonOption = False,
) -> None:
    """Store the events of a file at the end of the log: the same ids, versions and moments, new positions.

    Events that the log has already are passed over, so an import that was interrupted goes on when it is repeated. A line that cannot be
    believed ends it; what stands before is stored. Example: `headwater log import log.jsonl.gz`
    """
    run_async(_import(file, json_output=json_output))


async def _export(file: str, file_format: FileFormat | None, after: int, categories: list[str] | None, *, json_output: bool) -> None:
    from headwater.eventstore import export_events
    from headwater.schemas import LogFileFormat

    target = sys.stdout.buffer if file == STANDARD else Path(file)
    chosen = LogFileFormat(file_format.value) if file_format is not None else None
    began_at = SYSTEM_CLOCK.monotonic()
    async with open_database() as database:
        with _bar("export", is_hidden=json_output) as (bar, task):

            def show(done: ExportProgress) -> None:
                bar.update(task, completed=done.position - done.after, total=done.through - done.after, events=done.event_count)

            done = await export_events(database, target, file_format=chosen, after=after, categories=categories, progress=show)
    seconds = SYSTEM_CLOCK.monotonic() - began_at
    if json_output:
        facts = {"file": file, "event_count": done.event_count, "after": done.after, "through": done.through, "seconds": round(seconds, 3)}
        print_json({**facts, "log_id": str(done.header.log_id), "epochs": _epochs(done.header)})
    elif file != STANDARD:
        print(f"{done.event_count:,} events up to position {done.through:,} are in {file} ({_rate(done.event_count, seconds)})")


async def _import(file: str, *, json_output: bool) -> None:
    from headwater.eventstore import ImportProgress, import_events
    from headwater.schemas import LogFileHeader

    began_at = SYSTEM_CLOCK.monotonic()
    latest = ImportProgress(LogFileHeader())
    async with open_database() as database:
        with _source(file) as (stream, size), _bar("import", is_hidden=json_output) as (bar, task):

            def show(done: ImportProgress) -> None:
                nonlocal latest
                latest = done
                bar.update(task, completed=stream.tell() if size is not None else 0, total=size, events=done.event_count)

            try:
                done = await import_events(database, stream, progress=show)
            except HeadwaterError:
                if latest.event_count and not json_output:
                    print(f"{latest.event_count:,} events are stored; repeat this command to go on from there", file=sys.stderr)
                raise
    seconds = SYSTEM_CLOCK.monotonic() - began_at
    if json_output:
        facts = {"file": file, "stored_count": done.stored_count, "known_count": done.known_count, "last_position": done.last_position}
        log_id = None if done.header.log_id is None else str(done.header.log_id)
        print_json({**facts, "seconds": round(seconds, 3), "from_log_id": log_id, "from_epochs": _epochs(done.header)})
        return
    known = f"; {done.known_count:,} were here already" if done.known_count else ""
    where = f", up to position {done.last_position:,}" if done.last_position is not None else ""
    print(f"{done.stored_count:,} events stored{where}{known} ({_rate(done.event_count, seconds)})")


def _epochs(header: LogFileHeader) -> list[dict[str, int]]:
    return [{"epoch": epoch, "began_after": began_after} for epoch, began_after in header.epochs]


def _rate(event_count: int, seconds: float) -> str:
    return f"{event_count / max(seconds, 0.001):,.0f} events a second"


@contextmanager
def _source(file: str) -> Generator[tuple[BinaryIO, int | None]]:
    """The file, open, and how many bytes it has where that is known."""
    if file == STANDARD:
        yield sys.stdin.buffer, None
        return
    path = Path(file)
    try:
        stream, size = path.open("rb", buffering=0), path.stat().st_size
    except OSError as error:
        raise UsageError(f"the file {file} cannot be read: {error.strerror}") from error
    with stream:
        yield cast("BinaryIO", stream), size


@contextmanager
def _bar(name: str, *, is_hidden: bool) -> Generator[tuple[Progress, TaskID]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns: tuple[Any, ...] = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[events]:,} events"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=is_hidden or not sys.stderr.isatty()) as bar:
        yield bar, bar.add_task(name, total=None, events=0)
