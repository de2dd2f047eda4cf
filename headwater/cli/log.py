"""`headwater log` and `headwater stream`: look at what happened."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final
from uuid import UUID

import typer

from headwater.cli.database import open_database
from headwater.cli.output import (
    LIMIT_MAX,
    LIST_LIMIT_DEFAULT,
    JsonOption,
    LimitOption,
    event_facts,
    indented_json,
    print_facts,
    print_json,
    print_table,
    printable,
    shortened,
    shown,
)
from headwater.cli.running import run_async, stop_event
from headwater.errors import StreamNotFound, UsageError

if TYPE_CHECKING:
    from headwater.eventstore import EventFilter, LogStats
    from headwater.messages import RecordedEvent
    from headwater.postgres import Database

TAIL_LAST_DEFAULT: Final = 10
"""Events that `tail` shows before it follows."""
TAIL_POLL_SECONDS_MIN: Final = 0.05
TAIL_POLL_SECONDS_MAX: Final = 1.0
"""How long a new event may go unseen after a quiet time."""
DATA_CHARACTERS: Final = 120
"""Of an event's data on one line, where the terminal does not say how wide it is."""
STATS_ROWS_DEFAULT: Final = 20
"""Types and tables that `stats` prints for people."""

log_commands = typer.Typer(
    no_args_is_help=True, help="Look at the log, write it into a file, read one. Example: `headwater log tail --type OrderPlaced`"
)
stream_commands = typer.Typer(
    no_args_is_help=True, help="Look at one stream, close it, archive it. Example: `headwater stream show order-1 --backwards --limit 5`"
)

CategoryOption = Annotated[str | None, typer.Option("--category", "-c", help="Only events of this category, like order.")]
TypeOption = Annotated[str | None, typer.Option("--type", "-t", help="Only events of this type, like OrderPlaced.")]
StreamOption = Annotated[str | None, typer.Option("--stream", help="Only events of this stream, like order-1.")]


@dataclass(frozen=True, slots=True)
class TailRequest:
    """What `tail` was asked for."""

    after: int | None
    last: int
    limit: int | None
    follow: bool
    json_output: bool


@log_commands.command("tail")
def tail_command(
    after: Annotated[int | None, typer.Option("--after", min=0, help="Begin behind this position; 0 begins at the first event.")] = None,
    last: Annotated[
        int | None,
        typer.Option("--last", min=0, max=LIMIT_MAX, help=f"Begin with so many of the last events; by default {TAIL_LAST_DEFAULT}."),
    ] = None,
    category: CategoryOption = None,
    event_type: TypeOption = None,
    stream_name: StreamOption = None,
    limit: Annotated[int | None, typer.Option("--limit", "-n", min=1, help="End after so many events.")] = None,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Wait for new events until Ctrl-C, or end at the log's end.")] = True,
    json_output: JsonOption = False,
) -> None:
    """Follow the log, event by event, in order; nothing that commits late is missed.

    With --json, one object a line. Example: `headwater log tail --after 0 --category order --no-follow --json`
    """
    from headwater.eventstore import EventFilter

    if after is not None and last is not None:
        raise UsageError("--after and --last both say where to begin; give one of them")
    request = TailRequest(after, TAIL_LAST_DEFAULT if last is None else last, limit, follow, json_output)
    run_async(_tail(request, EventFilter(category, event_type, stream_name)))


@log_commands.command("show")
def show_command(
    position_or_id: Annotated[str, typer.Argument(metavar="POSITION|EVENT_ID", help="The event's position in the log, or its id.")],
    json_output: JsonOption = False,
) -> None:
    """One event in full: its place, its data, its metadata.

    Example: `headwater log show 1742`
    """
    run_async(_show(parse_position_or_id(position_or_id), json_output=json_output))


@log_commands.command("stats")
def stats_command(json_output: JsonOption = False, limit: LimitOption = STATS_ROWS_DEFAULT) -> None:
    """Numbers of the log: events, streams, sizes, epochs, the horizon, and which transaction holds it. Counts every event.

    --limit is for the tables; --json has everything. Example: `headwater log stats --json`
    """
    run_async(_stats(limit=limit, json_output=json_output))


@stream_commands.command("show")
def stream_show_command(
    stream_name: Annotated[str, typer.Argument(metavar="NAME", help="The stream's name, like order-1.")],
    from_version: Annotated[int | None, typer.Option("--from-version", min=1, help="Begin at this version.")] = None,
    backwards: Annotated[bool, typer.Option("--backwards", help="Newest first.")] = False,
    limit: LimitOption = LIST_LIMIT_DEFAULT,
    json_output: JsonOption = False,
) -> None:
    """The events of one stream.

    Example: `headwater stream show order-1 --backwards --limit 5`
    """
    run_async(_stream_show(stream_name, from_version=from_version, backwards=backwards, limit=limit, json_output=json_output))


def parse_position_or_id(text: str) -> int | UUID:
    """A position or an event id, as somebody typed it.

    Raises:
        UsageError: it is neither.
    """
    digits = text.replace(",", "")
    if digits.isascii() and digits.isdigit() and int(digits) < 2**63:
        return int(digits)
    try:
        return UUID(text)
    except ValueError:
        raise UsageError(f"{text!r} is neither a position, like 1742, nor an event id, like 0199a6c0-5b1e-7c3a-9d4e-0c9b6a1f2e3d") from None


# -- tail -------------------------------------------------------------------------------------------------------------


async def _tail(request: TailRequest, chosen: EventFilter) -> None:
    stop = stop_event()
    async with open_database() as database:
        shown_count, cursor = await _begin(database, request, chosen)
        pause = TAIL_POLL_SECONDS_MIN
        while not stop.is_set() and not (request.limit is not None and shown_count >= request.limit):
            read_count, shown_now, cursor = await _read_on(database, request, chosen, cursor, shown_count)
            shown_count += shown_now
            if read_count:
                pause = TAIL_POLL_SECONDS_MIN
                continue
            if not request.follow:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await stop.wait()
            pause = min(pause * 2, TAIL_POLL_SECONDS_MAX)


async def _begin(database: Database, request: TailRequest, chosen: EventFilter) -> tuple[int, int]:
    """Print the events to begin with; how many they were, and the position to go on from."""
    from headwater.eventstore import LogInspection, PostgresEventStore

    if request.after is not None:
        return 0, request.after
    inspection = LogInspection(database)
    horizon = await PostgresEventStore(database).horizon()
    wanted = request.last if request.limit is None else min(request.last, request.limit)
    events = await inspection.last_events(chosen, horizon=horizon, limit=wanted) if wanted else ()
    for event in events:
        _print_event(event, json_output=request.json_output)
    # From the last event there is, not from the horizon: after a crash positions above that event may be drawn again.
    return len(events), await inspection.last_position(horizon)


async def _read_on(database: Database, request: TailRequest, chosen: EventFilter, cursor: int, shown_count: int) -> tuple[int, int, int]:
    """One batch: how many events were read, how many of them shown, and the position of the last one read."""
    from headwater.eventstore import PostgresEventStore

    events = (await PostgresEventStore(database).read_log(after=cursor)).events
    matching = [event for event in events if chosen.matches(event)]
    if request.limit is not None:
        matching = matching[: request.limit - shown_count]
    for event in matching:
        _print_event(event, json_output=request.json_output)
    return len(events), len(matching), events[-1].global_position if events else cursor


def _print_event(event: RecordedEvent, *, json_output: bool) -> None:
    if json_output:
        print_json(event_facts(event))
        return
    head = f"{event.global_position:>10}  {shown(event.recorded_at)}  {event.stream_name}@{event.version}  {event.type}  "
    room = shutil.get_terminal_size().columns - len(head) if sys.stdout.isatty() else DATA_CHARACTERS
    print(printable(head + shortened(event.data, max(room, 20))), flush=True)


# -- one event, one stream --------------------------------------------------------------------------------------------


async def _show(position_or_id: int | UUID, *, json_output: bool) -> None:
    from headwater.eventstore import LogInspection

    async with open_database() as database:
        event = await LogInspection(database).find(position_or_id)
    if json_output:
        print_json(event_facts(event))
        return
    facts: dict[str, Any] = {
        "type": event.type,
        "position": event.global_position,
        "stream": event.stream_name,
        "version": event.version,
        "recorded": event.recorded_at,
        "event id": event.event_id,
        **dict(sorted(event.metadata.items())),
    }
    print_facts(facts)
    print(indented_json(event.data))


async def _stream_show(stream_name: str, *, from_version: int | None, backwards: bool, limit: int, json_output: bool) -> None:
    from headwater.eventstore import PostgresEventStore

    async with open_database() as database:
        store = PostgresEventStore(database)
        version = await store.stream_version(stream_name)
        if version == 0:
            raise StreamNotFound(
                f"there is no stream {stream_name!r}; streams of a category are seen with: headwater log tail --category …"
            )
        reading = store.read_stream(stream_name, from_version=from_version, backwards=backwards, limit=limit)
        events = [event async for event in reading]
    if json_output:
        print_json({"stream_name": stream_name, "version": version, "events": [event_facts(event) for event in events]})
        return
    rows = [(e.version, e.global_position, e.recorded_at, e.type, shortened(e.data, DATA_CHARACTERS)) for e in events]
    print_table(("version", "position", "recorded", "type", "data"), rows, empty=f"{stream_name} has {version} events, but none from there")
    if len(events) < version and len(events) == limit:
        print(f"{len(events):,} of {version:,} events; --limit and --from-version show others")


# -- numbers ----------------------------------------------------------------------------------------------------------


async def _stats(*, limit: int, json_output: bool) -> None:
    from headwater.eventstore import LogInspection

    async with open_database() as database:
        stats = await LogInspection(database).stats()
    if json_output:
        print_json(_stats_facts(stats))
    else:
        _print_stats(stats, limit)


def _stats_facts(stats: LogStats) -> dict[str, Any]:
    return {
        "log_id": stats.log_id,
        "epochs": [asdict(epoch) for epoch in stats.epochs],
        "event_count": stats.event_count,
        "archived_event_count": stats.archived_event_count,
        "stream_count": stats.stream_count,
        "closed_stream_count": stats.closed_stream_count,
        "archived_stream_count": stats.archived_stream_count,
        "last_position": stats.last_position,
        "horizon": stats.horizon,
        "last_drawn": stats.last_drawn,
        "held_by": asdict(stats.holder) if stats.holder else None,
        "writers": [asdict(writer) for writer in stats.writers],
        "streams": {counted.category: counted.stream_count for counted in stats.categories},
        "categories": [asdict(counted) for counted in stats.categories],
        "types": [asdict(counted) for counted in stats.types],
        "tables": [asdict(table) for table in stats.tables],
    }


def _print_stats(stats: LogStats, limit: int) -> None:
    epoch = stats.epochs[-1] if stats.epochs else None
    facts: dict[str, object] = {
        "log": stats.log_id or "not opened yet: no service has run on this database",
        "epoch": f"{epoch.epoch}, since {shown(epoch.began_at)}" if epoch else None,
        "events": stats.event_count,
        "archived events": stats.archived_event_count,
        "streams": stats.stream_count,
        "closed streams": f"{stats.closed_stream_count:,}, of them {stats.archived_stream_count:,} archived",
        "last position": stats.last_position,
        "horizon": stats.horizon,
        "writers in flight": len(stats.writers),
    }
    if (holder := stats.holder) is not None:
        who = f"prepared transaction {holder.prepared_name}" if holder.prepared_name else f"pid {holder.pid} ({holder.application_name})"
        waiting = stats.last_drawn - stats.horizon
        facts["held by"] = f"{who}, {holder.state or 'waiting'} since {shown(holder.began_at)}; up to {waiting:,} positions wait behind it"
    print_facts(facts)
    print()
    counted = [
        (c.category, c.type, c.event_count, c.archived_count, _megabytes(c.stored_bytes), c.last_recorded_at) for c in stats.types[:limit]
    ]
    print_table(("category", "type", "events", "archived", "stored data", "last recorded"), counted, empty="no events yet")
    if len(stats.types) > limit:
        print(f"{limit} of {len(stats.types)} types; --limit shows more")
    print()
    sizes = [(t.table_name, _megabytes(t.total_bytes), _megabytes(t.index_bytes), t.row_estimate) for t in stats.tables[:limit]]
    print_table(("table", "size", "of it indexes", "rows, about"), sizes, empty="no tables")


def _megabytes(count: int) -> str:
    return f"{count / 1024**2:,.1f} MiB"
