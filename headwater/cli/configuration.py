"""`headwater config`: what is set, to what, and where that was said."""

from __future__ import annotations

import typer

from headwater.cli.output import JsonOption, print_json, print_table

config_commands = typer.Typer(
    no_args_is_help=True,
    help="Look at the configuration: a YAML file, under the environment, under arguments.\n\n"
    "The file is `headwater.yaml` in the working directory, or the one that HEADWATER_CONFIG names; it has one line for each setting, such as "
    "`topic_partitions: 12`. The variable HEADWATER_TOPIC_PARTITIONS counts over it. Example: `headwater config show`",
)


@config_commands.command("show")
def show_command(json_output: JsonOption = False) -> None:
    """Every setting, its value, and where that comes from: the file with its line, an environment variable, or the default.

    Passwords and keys are masked. With --json: {"file": …, "settings": [{"name", "value", "source", "variable", "line"}, …]}, where source is
    default, file or environment. Example: `headwater config show --json`
    """
    from headwater.config import config_path, effective_settings

    settings, path = effective_settings(), config_path()
    if json_output:
        facts = [{"name": s.name, "value": s.value, "source": s.source, "variable": s.variable, "line": s.line} for s in settings]
        print_json({"file": None if path is None else str(path), "settings": facts})
        return
    print(f"file: {path}" if path is not None else "file: none (no headwater.yaml here, and HEADWATER_CONFIG is not set)")
    print_table(("setting", "value", "from"), [(s.name, None if s.value is None else str(s.value), s.origin) for s in settings], empty="")


@config_commands.command("check")
def check_command(json_output: JsonOption = False) -> None:
    """Check the file, the environment over it, and that the settings can work together; exit 1 with what is wrong.

    Faults of the file are told with line and column, all at once. TLS files must be there; no server is asked. With --json: {"file": …,
    "valid": …, "message": …}. Example: `HEADWATER_CONFIG=deploy/headwater.yaml headwater config check`
    """
    from headwater.config import config_path
    from headwater.errors import UsageError

    path = None
    message = None
    try:
        path = config_path()
        _check()
    except UsageError as error:
        message = str(error)
    if json_output:
        print_json({"file": None if path is None else str(path), "valid": message is None, "message": message})
    elif message is not None:
        typer.echo(message, err=True)
    else:
        print(f"{path} is sound" if path is not None else "there is no file; the environment and the defaults are sound")
    raise typer.Exit(0 if message is None else 1)


def _check() -> None:
    from headwater.config import load_settings
    from headwater.kafka import KafkaSecurity, KafkaSettings
    from headwater.postgres import check_address, check_schema
    from headwater.privacy import MasterKey

    settings = load_settings()
    check_schema(settings.log_schema)
    if settings.postgres is not None:
        check_address(settings.postgres)
    if settings.master_key is not None:
        MasterKey.parse(settings.master_key.get_secret_value())
    security = KafkaSecurity.of(settings)
    if settings.kafka is not None:
        KafkaSettings.parse(settings.kafka, security=security)
