"""`headwater scheduled`: messages that wait for their moment, and recurring schedules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final
from uuid import UUID

import typer

from headwater.cli.database import open_database
from headwater.cli.output import (
    LIST_LIMIT_DEFAULT,
    JsonOption,
    LimitOption,
    indented_json,
    print_facts,
    print_json,
    print_table,
    shortened,
    stored_json,
)
from headwater.cli.running import run_async
from headwater.errors import UsageError

if TYPE_CHECKING:
    from headwater.bus import ScheduleStatus
    from headwater.outbox import ScheduledCounts, ScheduledMessage
    from headwater.postgres import Database

ERROR_CHARACTERS: Final = 60

scheduled_commands = typer.Typer(
    no_args_is_help=True,
    help="Messages for later and recurring schedules: look at them, and take them back. Example: `headwater scheduled list --failing`",
)
TypeOption = Annotated[str | None, typer.Option("--type", "-t", help="Only messages of this type, like ReminderDue.")]
StreamOption = Annotated[str | None, typer.Option("--stream", help="Only messages of this stream, like reminder-outbox:42.")]
IdsArgument = Annotated[
    list[str], typer.Argument(metavar="ID…", help="Messages by their ids; recurring schedules as SERVICE/NAME, like shop/daily_report.")
]


@scheduled_commands.command("list")
def list_command(
    event_type: TypeOption = None,
    stream_name: StreamOption = None,
    failing: Annotated[bool, typer.Option("--failing", help="Only messages and schedules that could not be delivered yet.")] = False,
    limit: LimitOption = LIST_LIMIT_DEFAULT,
    json_output: JsonOption = False,
) -> None:
    """Messages that wait, the next due first, and all recurring schedules. Personal data stays sealed.

    Example: `headwater scheduled list --type ReminderDue --json | jq .counts.overdue`
    """
    run_async(_list(event_type, stream_name, failing=failing, limit=limit, json_output=json_output))


@scheduled_commands.command("show")
def show_command(message_id: Annotated[str, typer.Argument(metavar="ID")], json_output: JsonOption = False) -> None:
    """One waiting message in full, with the error of its last delivery if that failed.

    Example: `headwater scheduled show 01934f5e-9b1c-7cc1-b5a7-5f2f8f6a3c10`
    """
    run_async(_show(_id_of(message_id), json_output=json_output))


@scheduled_commands.command("cancel")
def cancel_command(ids: IdsArgument, json_output: JsonOption = False) -> None:
    """Take messages back, and forget recurring schedules. Repeatable; exits with 1 when a message was delivered already.

    A schedule that code still defines is registered again when its service starts. Examples:
    `headwater scheduled cancel 01934f5e-9b1c-7cc1-b5a7-5f2f8f6a3c10` · `headwater scheduled cancel shop/daily_report`
    """
    schedules = [tuple(given.split("/", 1)) for given in ids if "/" in given]
    messages = [_id_of(given) for given in ids if "/" not in given]
    raise typer.Exit(run_async(_cancel(messages, schedules, json_output=json_output)))


def _id_of(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise UsageError(
            f"{text!r} is no message's id; `headwater scheduled list` shows them (a recurring schedule is named SERVICE/NAME)"
        ) from None


async def _list(event_type: str | None, stream_name: str | None, *, failing: bool, limit: int, json_output: bool) -> None:
    from headwater.bus import ScheduleDesk
    from headwater.outbox import PostgresScheduledMessages

    async with open_database() as database:
        scheduled = PostgresScheduledMessages(database)
        messages = await scheduled.list(event_type=event_type, stream_name=stream_name, only_failing=failing, limit=limit)
        counts = await scheduled.count(event_type=event_type, stream_name=stream_name)
        schedules = [each for each in await ScheduleDesk(database).list() if each.attempts or not failing]
    if json_output:
        print_json(
            {
                "messages": [_facts(message) for message in messages],
                "counts": counts._asdict(),
                "schedules": [_schedule_facts(schedule) for schedule in schedules],
            }
        )
        return
    _print_list(messages, counts, schedules)


def _print_list(messages: tuple[ScheduledMessage, ...], counts: ScheduledCounts, schedules: list[ScheduleStatus]) -> None:
    if schedules:
        rows = [
            (f"{s.service_name}/{s.name}", f"{s.cron} ({s.timezone})", s.next_at, s.last_due_at, s.fired_count, shortened(s.error or "-", ERROR_CHARACTERS))
            for s in schedules
        ]  # fmt: skip
        print_table(("schedule", "when", "next", "last", "fired", "error"), rows, empty="")
        print()
    waiting = [(m.message_id, m.due_at, m.type, m.stream_name, m.attempts, shortened(m.error or "-", ERROR_CHARACTERS)) for m in messages]
    print_table(("message", "due", "type", "stream", "attempts", "error"), waiting, empty="no such message waits")
    print(f"{counts.waiting:,} waiting, {counts.overdue:,} of them overdue, {counts.failing:,} failing")
    if counts.failing:
        print(
            "a failing message is tried again by itself; its stream waits for it: headwater scheduled show ID, then mend the cause, or cancel it"
        )


async def _show(message_id: UUID, *, json_output: bool) -> None:
    from headwater.outbox import PostgresScheduledMessages

    async with open_database() as database:
        message = await PostgresScheduledMessages(database).get(message_id)
    if json_output:
        print_json(_facts(message))
        return
    facts = _facts(message)
    del facts["data"], facts["metadata"]
    print_facts({**facts, **{f"metadata.{name}": value for name, value in message.metadata.items()}})
    print(indented_json(message.data))


async def _cancel(message_ids: list[UUID], schedules: list[Any], *, json_output: bool) -> int:
    async with open_database() as database:
        messages = await _cancel_messages(database, message_ids)
        removed = await _remove_schedules(database, schedules)
    was_late = "delivered" in messages.values()
    if json_output:
        print_json({"messages": messages, "schedules": removed})
        return 1 if was_late else 0
    sayings = {
        "cancelled": "cancelled: it will not be delivered",
        "not there": "not there: it was cancelled before, or never scheduled; it will not be delivered",
        "delivered": "too late: it was delivered, see headwater log",
    }
    for message_id, answer in messages.items():
        print(f"{message_id}  {sayings[answer]}")
    for name, was_there in removed.items():
        print(f"{name}  {'removed; code that still defines it registers it again when it starts' if was_there else 'not there'}")
    return 1 if was_late else 0


async def _cancel_messages(database: Database, message_ids: list[UUID]) -> dict[str, str]:
    from headwater.outbox import PostgresScheduledMessages

    scheduled = PostgresScheduledMessages(database)
    return {str(message_id): (await scheduled.cancel(message_id)).value for message_id in message_ids}


async def _remove_schedules(database: Database, schedules: list[Any]) -> dict[str, bool]:
    from headwater.bus import ScheduleDesk

    desk = ScheduleDesk(database)
    return {f"{service}/{name}": await desk.remove(service, name) for service, name in schedules}


def _facts(message: ScheduledMessage) -> dict[str, Any]:
    return {
        "message_id": message.message_id,
        "due_at": message.due_at,
        "type": message.type,
        "stream_name": message.stream_name,
        "scheduled_at": message.scheduled_at,
        "attempts": message.attempts,
        "error": message.error,
        "retry_at": message.retry_at,
        "data": stored_json(message.data),
        "metadata": dict(message.metadata),
    }


def _schedule_facts(schedule: ScheduleStatus) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(schedule)
