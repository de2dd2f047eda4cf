"""`headwater groups`: who handles events, what feeds them, and moving them from one source to the other."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater.cli.broker import configured_kafka
from headwater.cli.database import open_database
from headwater.cli.output import JsonOption, can_ask, print_json, print_table
from headwater.cli.running import run_async
from headwater.errors import UsageError

if TYPE_CHECKING:
    from headwater.bus import HandlerGroup, MovedGroup

group_commands = typer.Typer(
    no_args_is_help=True,
    help="Groups of handlers, one for each service: what feeds them, and moving them. Example: `headwater groups list`",
)


class SourceChoice(StrEnum):
    """What may feed handlers."""

    KAFKA = "kafka"
    POSTGRES = "postgres"


GroupArgument = Annotated[str, typer.Argument(metavar="GROUP", help="Its name, which is the service's.")]
ToOption = Annotated[SourceChoice, typer.Option("--to", help="What is to feed its handlers from now on.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask. Needed with --json, and where nobody can be asked.")]


@group_commands.command("list")
def list_command(json_output: JsonOption = False) -> None:
    """All groups of this log that ever worked: what feeds each, since when, and how many keys are parked.

    Example: `headwater groups list --json`
    """
    run_async(_list(json_output=json_output))


@group_commands.command("move")
def move_command(group: GroupArgument, to: ToOption, yes: YesOption = False, json_output: JsonOption = False) -> None:
    """Have a group's handlers fed by Kafka instead of the log, or the other way round; no effect is lost, none happens twice.

    What it handled counts as handled by the new source, too. Let it catch up and end every process that runs it, then run this, set `source` and
    start it again. It refuses, and changes nothing, while the group works, has parked keys, or has left out messages before others that it
    handled. A process that still has the old setting is refused from then on. To Kafka, topics that are missing are made. See docs/sources.md.

    Example: `headwater groups move shop --to kafka`
    """
    if not yes:
        if not can_ask(json_output=json_output):
            raise UsageError(f"this would move {group!r} to {to}, and nobody can be asked; repeat it with --yes")
        typer.confirm(f"have the handlers of {group} fed by {to} from now on?", abort=True)
    moved = run_async(move(group, to, quiet=json_output))
    if json_output:
        through = {category: str(position) for category, position in moved.through.items()}
        print_json({"group": moved.group, "source": moved.source, "is_changed": moved.is_changed, "through": through})
    elif not moved.is_changed:
        print(f"{moved.group} is fed by {moved.source} already; nothing was changed")
    else:
        rows = [(category, str(position)) for category, position in sorted(moved.through.items())]
        print_table(("category", "handled through"), rows, empty="it had handled nothing")
        print(f"{moved.group} is fed by {moved.source} from now on. Set source: {moved.source}, and start it.")


async def move(group: str, to: SourceChoice, *, quiet: bool) -> MovedGroup:
    """What the command does, between the servers of the settings.

    Raises:
        NotFoundError, GroupNotReady, UsageError, BrokerUnavailable, StorageUnavailable: see `GroupMove.run`.
    """
    from headwater.bus import GroupMove, topics_of_group
    from headwater.config import load_settings
    from headwater.eventstore import PostgresEventStore
    from headwater.kafka import KafkaTopics
    from headwater.postgres import topic_prefix

    settings = load_settings()
    prefix = topic_prefix(settings.log_schema)
    async with open_database() as database:
        counts: dict[str, int] = {}
        if to is SourceChoice.KAFKA:
            counts = await KafkaTopics(configured_kafka(settings)).ensure(await topics_of_group(database, group, prefix))
        with _progress(quiet=quiet) as looked_at:
            moving = GroupMove(
                database, PostgresEventStore(database), group, partition_counts=counts, topic_prefix=prefix, on_progress=looked_at
            )
            return await moving.run(to.value)


@contextmanager
def _progress(*, quiet: bool) -> Generator[Callable[[int], None]]:
    """Shows how many events were looked at."""
    from rich.console import Console
    from rich.progress import Progress, TextColumn

    column = TextColumn("looking whether everything was handled: {task.completed:,.0f} events")
    with Progress(column, console=Console(stderr=True), disable=quiet or not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda count: bar.update(task, completed=count)


async def _list(*, json_output: bool) -> None:
    from headwater.bus import list_groups

    async with open_database() as database:
        groups = await list_groups(database)
    if json_output:
        print_json({"groups": [_facts(group) for group in groups]})
        return
    rows = [(group.name, group.source, group.since, group.partition_count, group.parked_keys) for group in groups]
    print_table(("group", "fed by", "since", "partitions", "parked keys"), rows, empty="no group has worked here yet")


def _facts(group: HandlerGroup) -> dict[str, Any]:
    return {
        "group": group.name,
        "source": group.source,
        "since": group.since,
        "partitions": group.partition_count,
        "parked_keys": group.parked_keys,
    }
