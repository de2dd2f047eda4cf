"""The commands, and how errors leave them.

`headwater --help` answers at once: what a command needs it imports when it runs. A group of commands is a module with a Typer of its own,
added below.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from headwater.cli.archive import archive_command, close_command
from headwater.cli.configuration import config_commands
from headwater.cli.dead_letters import dead_letter_commands
from headwater.cli.groups import group_commands
from headwater.cli.log import log_commands, stream_commands
from headwater.cli.log_files import export_command, import_command
from headwater.cli.outbox import outbox_commands
from headwater.cli.output import JsonOption, ServiceOption
from headwater.cli.projections import projection_commands
from headwater.cli.sagas import saga_commands
from headwater.cli.scheduled import scheduled_commands
from headwater.errors import HeadwaterError, UsageError

app = typer.Typer(
    name="headwater",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    epilog="Start with `headwater demo`. HEADWATER_POSTGRES and HEADWATER_KAFKA, or `postgres:` and `kafka:` in headwater.yaml, point every "
    "command at your own servers; `headwater config show` tells what counts.",
)
GROUPS: Final = {
    "log": log_commands,
    "stream": stream_commands,
    "outbox": outbox_commands,
    "projections": projection_commands,
    "sagas": saga_commands,
    "dead-letters": dead_letter_commands,
    "scheduled": scheduled_commands,
    "groups": group_commands,
    "config": config_commands,
}


def _tell_version(is_wanted: bool) -> None:
    if is_wanted:
        from importlib.metadata import version

        typer.echo(f"headwater {version('headwater')}")
        raise typer.Exit


@app.callback()
def main_options(
    _version: Annotated[bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version and exit.")] = False,
) -> None:
    """Event sourcing and an event bus: an append-only PostgreSQL log, relayed to Kafka, with exactly-once effects."""


@app.command()
def up(json_output: JsonOption = False) -> None:
    """Run an embedded PostgreSQL and Kafka until Ctrl-C, and say where they are.

    Their data is gone when they stop. With --json, prints one line once both are ready: {"postgres": …, "kafka": …}.
    """
    from headwater.embedded import run_up

    run_up(json_output)


@app.command("demo")
def demo_command(
    json_output: JsonOption = False,
    orders: Annotated[
        int, typer.Option("--orders", min=1, help="How many orders to place; the real ones are repeated with new ids.")
    ] = 830,
    chaos: Annotated[
        bool, typer.Option("--chaos", help="Kill a random service process every three seconds, and start it again, while the orders run.")
    ] = False,
) -> None:
    """Take real orders through four services over Kafka, with sagas between them, and check every promise.

    Starts its own servers, ends by itself, and exits 0 only if all checks hold.
    """
    from headwater.cli import demo

    raise typer.Exit(demo.run_demo(order_count=orders, json_output=json_output, chaos=chaos))


@app.command("migrate")
def migrate_command(
    check: Annotated[bool, typer.Option("--check", help="Change nothing; exit 1 if something is missing.")] = False,
    sql: Annotated[
        bool,
        typer.Option(
            "--sql", help="Print the SQL of what is missing (with --roles: of the roles), to be applied by hand in one transaction."
        ),
    ] = False,
    schema: Annotated[
        str | None,
        typer.Option("--schema", metavar="NAME", help="The log in this schema, instead of HEADWATER_SCHEMA: one for each tenant."),
    ] = None,
    roles: Annotated[
        bool, typer.Option("--roles", help="Set up the roles, too: NAME_owner, NAME_writer for services, NAME_reader; repeatable.")
    ] = False,
    role_prefix: Annotated[
        str | None, typer.Option("--role-prefix", metavar="NAME", help="What the roles' names begin with; by default the schema's name.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Bring the schema of HEADWATER_POSTGRES up to this version. Repeating it does nothing.

    Example: `headwater migrate --schema acme --roles`
    """
    from headwater.cli import migrate

    raise typer.Exit(migrate.run_migrate(migrate.MigrateRequest(check, sql, roles, schema, role_prefix, json_output)))


@app.command("doctor")
def doctor_command(
    service: ServiceOption = None,
    json_output: JsonOption = False,
) -> None:
    """Check configuration and servers against the promises; say what each finding costs, and what to do about it.

    Changes nothing. A server that does not answer is a finding, and the others are still checked. Exits with 1 when there is a failure, with
    0 otherwise, whatever the warnings. With --json, one object: {"healthy": …, "counts": {…}, "findings": […]}.

    Example: `headwater doctor --json | jq '.findings[] | select(.severity != "ok")'`
    """
    from headwater.cli import doctor

    raise typer.Exit(doctor.run_doctor(service, json_output=json_output))


@app.command("run")
def run_command(
    target: Annotated[str, typer.Argument(metavar="MODULE:ATTRIBUTE", help="The service, like shop:service.")],
    workers: Annotated[
        int | None,
        typer.Option("--workers", "-w", min=1, max=256, metavar="N", help="In N processes, each replaced when it dies or hangs."),
    ] = None,
    reload: Annotated[
        bool, typer.Option("--reload", help="Start anew whenever a Python file below this folder changes, for development.")
    ] = False,
    http: Annotated[
        str | None,
        typer.Option(
            "--http", metavar="HOST:PORT", help="Answer /livez, /readyz and /metrics here, like 127.0.0.1:8080; 8080 alone means loopback."
        ),
    ] = None,
    as_worker: Annotated[str | None, typer.Option("--as-worker", hidden=True)] = None,
) -> None:
    """Run a service: its relay, its handlers and its projections, until Ctrl-C.

    Servers that are not configured are started embedded, for development. Ctrl-C or SIGTERM drains what is in hand; a second one ends at once.
    Processes share the work by partition: more workers than partitions help nobody.

    Example: `headwater run shop:service --workers 4 --http 127.0.0.1:8080`
    """
    from headwater.cli import serve

    raise typer.Exit(serve.run_service(serve.RunRequest(target, workers, reload, http, as_worker)))


@app.command("asyncapi")
def asyncapi_command(
    target: Annotated[
        str | None, typer.Argument(metavar="[MODULE:ATTRIBUTE]", help="The service; by default the only one that this folder defines.")
    ] = None,
    api_version: Annotated[
        str | None, typer.Option("--api-version", metavar="TEXT", help="The version that the document gives itself.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Print a service as an AsyncAPI 3 document in YAML: topics, what it receives and sends, and the shape of every message.

    Connects to nothing. Example: `headwater asyncapi shop:service > asyncapi.yaml`
    """
    from headwater.cli import asyncapi

    raise typer.Exit(asyncapi.run_asyncapi(target, api_version, json_output=json_output))


@app.command("replay")
def replay_command(
    name: Annotated[str, typer.Argument(help="The projection's name, like units_ordered.")],
    service: ServiceOption = None,
    json_output: JsonOption = False,
) -> None:
    """Rebuild a read model from the log while the old one keeps serving, then switch.

    May be interrupted; the next call resumes.
    """
    from headwater.cli import replay

    raise typer.Exit(replay.run_replay(name, service, json_output=json_output))


@app.command("forget")
def forget_command(
    subjects: Annotated[
        list[str] | None, typer.Argument(metavar="SUBJECT…", help="Whom: the text of the field that their events name as subject.")
    ] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Make the read models anew that may hold plain text.")] = False,
    show: Annotated[bool, typer.Option("--list", help="Show who was forgotten, and when; forget nobody.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    service: ServiceOption = None,
    json_output: JsonOption = False,
) -> None:
    """Destroy the keys of data subjects: what was sealed for them is redacted from then on, in every copy of the log.

    Lists the read models that may still hold plain text. Running services follow within 10 seconds. Exits with 1 when a subject is unknown.

    Example: `headwater forget 4628f009-5b4a-4c19-ab08-5483aa6b6acb --rebuild`
    """
    from headwater.cli import forget

    if show == bool(subjects):
        raise UsageError("say whom to forget: headwater forget SUBJECT… (or --list, to see who was)")
    if show:
        raise typer.Exit(forget.run_list(service, json_output=json_output))
    raise typer.Exit(forget.run_forget(subjects or [], service, rebuild=rebuild, yes=yes, json_output=json_output))


@app.command("bench")
def bench_command(
    names: Annotated[
        list[str] | None, typer.Argument(help="Which benchmarks, or with --check which goals; all of them by default.")
    ] = None,
    json_output: JsonOption = False,
    seconds: Annotated[float, typer.Option("--seconds", min=0.2, help="How long each system works in each measurement.")] = 3.0,
    check: Annotated[
        bool, typer.Option("--check", help="Measure what benchmarks/goals.toml asks for; exit status 1 where a goal falls short.")
    ] = False,
    full: Annotated[bool, typer.Option("--full", help="Also the sizes that take minutes to prepare (ten million events).")] = False,
    plot: Annotated[Path | None, typer.Option("--plot", metavar="DIR", help="Draw a PNG for each benchmark into this folder.")] = None,
    save: Annotated[
        Path | None, typer.Option("--save", metavar="FILE", help="Write measurements, goals and versions to this JSON file.")
    ] = None,
) -> None:
    """Measure Headwater beside raw drivers and other libraries in the same run; hold it against its goals."""
    from headwater.cli import benchmarks

    raise typer.Exit(
        benchmarks.run_benchmarks(names or [], json_output=json_output, seconds=seconds, check=check, full=full, plot=plot, save=save)
    )


log_commands.command("export")(export_command)
log_commands.command("import")(import_command)
stream_commands.command("close")(close_command)
stream_commands.command("archive")(archive_command)
for group_name, commands in GROUPS.items():
    app.add_typer(commands, name=group_name)


def run(arguments: list[str] | None = None) -> int:
    """Run one command line and return its exit status; errors are told on standard error, as JSON where JSON was asked for."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        # The commands of `config` tell of a faulty configuration themselves.
        if arguments and arguments[0] != "config" and "--help" not in arguments:
            _configure()
        outcome: Any = app(arguments, standalone_mode=False)
        return outcome if isinstance(outcome, int) else 0
    except HeadwaterError as error:
        return _report(str(error), 2 if isinstance(error, UsageError) else 1, kind=type(error).__name__, as_json="--json" in arguments)
    except typer.Exit as stop:
        return stop.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except SystemExit as end:
        # Click's way to say that whoever read our output has seen enough, like `head`; that is no failure.
        if isinstance(end.__context__, BrokenPipeError):
            return 0
        raise
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("click", "typer"):
            raise
        return _report(_usage_message(error), 2, kind="UsageError", as_json="--json" in arguments)


def _configure() -> None:
    from headwater.config import load_settings
    from headwater.telemetry import configure_logging

    settings = load_settings()
    configure_logging(settings.log_format, settings.log_level)


def _usage_message(error: Exception) -> str:
    format_message = getattr(error, "format_message", None)
    return f"{format_message() if format_message else error} (headwater --help tells more)"


def _report(message: str, status: int, *, kind: str, as_json: bool) -> int:
    if as_json:
        print(json.dumps({"error": kind, "message": message}), file=sys.stderr)
    else:
        from rich.console import Console

        errors = Console(stderr=True, soft_wrap=True, highlight=False)
        errors.print("[bold red]error:[/]", end=" ")
        errors.print(message, markup=False)
    return status
