"""`headwater sagas`: long stories, where they stand, and those that wait for a person."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater.cli.database import open_database
from headwater.cli.output import LIST_LIMIT_DEFAULT, JsonOption, LimitOption, print_facts, print_json, print_table, shortened
from headwater.cli.running import run_async

if TYPE_CHECKING:
    from headwater.sagas import SagaInstance, StepRecord

REASON_CHARACTERS_MAX = 60

saga_commands = typer.Typer(no_args_is_help=True, help="Long stories and where they stand. Example: `headwater sagas list --status stuck`")
TypeArgument = Annotated[str, typer.Argument(metavar="TYPE", help="The saga's type, like order_fulfilment.")]
KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="Which one: the text of its key.")]
StatusOption = Annotated[
    str | None, typer.Option("--status", help="Only those: running, compensating, stuck (waiting for a person), completed or compensated.")
]
TypeOption = Annotated[str | None, typer.Option("--type", help="Only sagas of this type.")]


@saga_commands.command("list")
def list_command(
    status: StatusOption = None, saga_type: TypeOption = None, limit: LimitOption = LIST_LIMIT_DEFAULT, json_output: JsonOption = False
) -> None:
    """The newest sagas, and how many there are of each status.

    Example: `headwater sagas list --status stuck`
    """
    run_async(_list(status, saga_type, limit, json_output=json_output))


@saga_commands.command("show")
def show_command(saga_type: TypeArgument, key: KeyArgument, json_output: JsonOption = False) -> None:
    """One saga in full: state, steps, deadlines and history.

    Example: `headwater sagas show order_fulfilment 4628f009-5b4a-4c19-ab08-5483aa6b6acb`
    """
    run_async(_show(saga_type, key, json_output=json_output))


@saga_commands.command("retry")
def retry_command(saga_type: TypeArgument, key: KeyArgument, json_output: JsonOption = False) -> None:
    """Let a stuck saga go on: what it waits for a person for is tried again by its running service.

    Example: `headwater sagas retry order_fulfilment 4628f009-5b4a-4c19-ab08-5483aa6b6acb`
    """
    run_async(_retry(saga_type, key, json_output=json_output))


async def _list(status: str | None, saga_type: str | None, limit: int, *, json_output: bool) -> None:
    from headwater.sagas import Sagas

    async with open_database() as database:
        sagas = Sagas(database)
        found = await sagas.list(status=status, saga_type=saga_type, limit=limit)
        counts = {each.value: count for each, count in (await sagas.count(saga_type=saga_type)).items()}
    if json_output:
        print_json({"sagas": [asdict(summary) for summary in found], "counts": counts})
        return
    rows = [
        (s.saga_type, s.key, s.status.value, shortened("; ".join(s.stuck_because) or s.reason or "-", REASON_CHARACTERS_MAX), s.updated_at)
        for s in found
    ]
    print_table(("type", "key", "status", "why", "updated"), rows, empty="no such saga has begun")
    print(", ".join(f"{count:,} {name}" for name, count in counts.items() if count) or "none")


async def _show(saga_type: str, key: str, *, json_output: bool) -> None:
    from headwater.sagas import Sagas

    async with open_database() as database:
        saga = await Sagas(database).get(saga_type, key)
    if json_output:
        print_json(_facts(saga))
        return
    print_facts(
        {
            "type": saga.saga_type,
            "key": saga.key,
            "status": saga.status.value,
            "why": "; ".join(saga.stuck_because) or saga.reason,
            "started": saga.started_at,
            "ended": saga.ended_at,
            **{f"state.{name}": value for name, value in saga.state.items()},
        }
    )
    print_table(("step", "status"), [(step.name, step.status.value) for step in saga.steps], empty="it has sent no step")
    if saga.deadlines:
        print_table(
            ("deadline", "due", "attempts", "error"), [(d.name, d.due_at, d.attempts, d.error) for d in saga.deadlines], empty="no deadline"
        )
    print_table(("when", "what", "of", "detail"), [(t.happened_at, t.kind, t.subject, t.detail) for t in saga.history], empty="no history")
    if saga.stuck_because:
        print(f"mend the cause, then: headwater sagas retry {saga.saga_type} {saga.key}")


async def _retry(saga_type: str, key: str, *, json_output: bool) -> None:
    from headwater.sagas import Sagas

    async with open_database() as database:
        count = await Sagas(database).retry(saga_type, key)
    if json_output:
        print_json({"saga_type": saga_type, "key": key, "resumed": count})
    else:
        print(f"{count} of its deadlines will be acted on again" if count else "it waits for nobody; nothing was changed")


def _facts(saga: SagaInstance) -> dict[str, Any]:
    return {**asdict(saga), "steps": [_step(step) for step in saga.steps]}


def _step(step: StepRecord) -> dict[str, Any]:
    return {"name": step.name, "status": step.status.value}
