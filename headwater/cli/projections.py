"""`headwater projections`: read models, how far they are, and making them anew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater.cli.database import open_database
from headwater.cli.outbox import lag_text
from headwater.cli.output import LIST_LIMIT_DEFAULT, JsonOption, LimitOption, ServiceOption, print_facts, print_json, print_table, shown
from headwater.cli.running import run_async

if TYPE_CHECKING:
    from headwater.projections import ProjectionLag

projection_commands = typer.Typer(
    no_args_is_help=True, help="Look at read models, resume and rebuild them. Example: `headwater projections status units_ordered`"
)
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The projection's name, like units_ordered.")]


@projection_commands.command("list")
def list_command(json_output: JsonOption = False, limit: LimitOption = LIST_LIMIT_DEFAULT) -> None:
    """Every projection that ever ran on this database: its status, checkpoint and lag.

    Example: `headwater projections list`
    """
    run_async(_list(limit=limit, json_output=json_output))


@projection_commands.command("status")
def status_command(name: NameArgument, json_output: JsonOption = False) -> None:
    """One projection in full: checkpoint, lag, error, rows of its tables, and a rebuild under way. Counts the rows.

    Exits with 1 when it stands still. Example: `headwater projections status units_ordered`
    """
    raise typer.Exit(run_async(_status(name, json_output=json_output)))


@projection_commands.command("rebuild")
def rebuild_command(name: NameArgument, service: ServiceOption = None, json_output: JsonOption = False) -> None:
    """Rebuild a read model from the log while the old one keeps serving, then switch: the long form of `headwater replay`.

    Runs the code of the service in this folder. Example: `headwater projections rebuild units_ordered --service shop:service`
    """
    from headwater.cli.replay import run_replay

    raise typer.Exit(run_replay(name, service, json_output=json_output))


@projection_commands.command("resume")
def resume_command(name: NameArgument, json_output: JsonOption = False) -> None:
    """Let a projection that stopped at an error try again where it stopped, in the running service.

    Example: `headwater projections resume units_ordered`
    """
    run_async(_resume(name, json_output=json_output))


async def _list(*, limit: int, json_output: bool) -> None:
    from headwater.projections import list_lags

    async with open_database() as database:
        lags = await list_lags(database)
    if json_output:
        print_json({"projections": [_facts(lag) for lag in lags[:limit]], "count": len(lags)})
        return
    rows = [
        (lag.live.name, lag.live.status, lag.live.checkpoint.global_position, lag_text(lag.lag_events), lag.live.updated_at, _rebuild(lag))
        for lag in lags[:limit]
    ]
    print_table(("name", "status", "checkpoint", "lag", "updated", "rebuild"), rows, empty="no projection ever ran on this database")
    if len(lags) > limit:
        print(f"{limit} of {len(lags)} projections; --limit shows more")


async def _status(name: str, *, json_output: bool) -> int:
    from headwater.projections import count_all_rows, read_lag

    async with open_database() as database:
        lag = await read_lag(database, name)
        rows = await count_all_rows(database, lag.live)
    exit_status = 0 if lag.live.status == "running" else 1
    if json_output:
        print_json({**_facts(lag), "rows": rows})
        return exit_status
    live = lag.live
    print_facts(
        {
            "name": live.name,
            "status": live.status,
            "error": live.error,
            "checkpoint": f"{live.checkpoint.epoch}:{live.checkpoint.global_position} of {shown(lag.horizon)}",
            "lag": lag_text(lag.lag_events),
            "events read": live.event_count,
            "updated": live.updated_at,
            "schema": live.schema_name,
            "generation": live.generation,
            "rows": ", ".join(f"{table} {count:,}" for table, count in rows.items()) or None,
            "rebuild": _rebuild(lag),
        }
    )
    if live.status == "failed":
        print(f"mend the cause, then: headwater projections resume {live.name} (or rebuild {live.name}, if its code changed)")
    elif live.status == "diverged":
        print(f"the log lost what was read; make it anew: headwater projections rebuild {live.name}")
    return exit_status


async def _resume(name: str, *, json_output: bool) -> None:
    from headwater.projections import resume_projection

    async with open_database() as database:
        was_stopped = await resume_projection(database, name)
    if json_output:
        print_json({"projection": name, "resumed": was_stopped})
    else:
        print(f"{name} tries again as soon as its service runs" if was_stopped else f"{name} was not stopped; nothing was changed")


def _rebuild(lag: ProjectionLag) -> str | None:
    if lag.following is None:
        return "beginning" if lag.is_rebuilding else None
    where = f"at {lag.following.checkpoint.global_position:,} of {lag.horizon:,}"
    return f"running, {where}" if lag.is_rebuilding else f"cut off {where}; repeat it to resume"


def _facts(lag: ProjectionLag) -> dict[str, Any]:
    live, following = lag.live, lag.following
    return {
        "name": live.name,
        "status": live.status,
        "error": live.error,
        "epoch": live.checkpoint.epoch,
        "checkpoint": live.checkpoint.global_position,
        "horizon": lag.horizon,
        "lag_events": lag.lag_events,
        "event_count": live.event_count,
        "updated_at": live.updated_at,
        "schema": live.schema_name,
        "generation": live.generation,
        "rebuild": {
            "is_running": lag.is_rebuilding,
            "checkpoint": following.checkpoint.global_position if following else 0,
            "updated_at": following.updated_at if following else None,
        }
        if following or lag.is_rebuilding
        else None,
    }
