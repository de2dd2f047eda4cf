"""`headwater replay`: rebuild a read model, with its progress."""

from __future__ import annotations

import json
import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from headwater.cli.running import run_async
from headwater.cli.target import load_service
from headwater.config import load_settings
from headwater.errors import ConfigurationError
from headwater.projections import RebuildProgress
from headwater.service import Service


def run_replay(name: str, target: str | None, *, json_output: bool) -> int:
    """Rebuild the projection of this name; returns the exit status."""
    service = load_service(target)
    service.find_projection(name)
    require_named_database()

    async def main() -> RebuildProgress:
        async with service.connect():
            return await replay_shown(service, name, quiet=json_output)

    done = run_async(main())
    if json_output:
        print(json.dumps({"projection": name, "events": done.events_done, "per_second": round(done.events_per_second)}))
    else:
        print(f"{name} was rebuilt from {done.events_done:,} events ({done.events_per_second:,.0f} a second) and serves now")
    return 0


def require_named_database() -> None:
    """Make sure that somebody said which log is meant.

    Raises:
        ConfigurationError: nobody did.
    """
    if load_settings().postgres is None:
        raise ConfigurationError(
            "which log? set HEADWATER_POSTGRES, or `postgres` in headwater.yaml, to the database of the service (an embedded one starts empty)"
        )


async def replay_shown(service: Service, name: str, *, quiet: bool) -> RebuildProgress:
    """Rebuild a projection of an open service, with a bar for who watches."""
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]:,.0f} events/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=quiet or not sys.stderr.isatty()) as bar:
        task = bar.add_task(f"replay {name}", total=None, rate=0.0)

        def show(progress: RebuildProgress) -> None:
            bar.update(task, completed=progress.events_done, total=progress.events_total, rate=progress.events_per_second)

        return await service.replay(name, progress=show)
