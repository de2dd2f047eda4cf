"""What commands print: tables for people, JSON for programs; and the options that many of them share."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:
    from headwater.messages import RecordedEvent

PIPE_WIDTH: Final = 200
"""Columns of a table that goes to a file or a pipe; on a terminal, its own width."""
LIST_LIMIT_DEFAULT: Final = 50
"""Rows that a list shows unless told otherwise."""
LIMIT_MAX: Final = 100_000
"""The most that `--limit` may ask for."""

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of text for people.")]
ServiceOption = Annotated[
    str | None,
    typer.Option("--service", "-s", metavar="MODULE:ATTRIBUTE", help="The service; by default the only one that this folder defines."),
]
LimitOption = Annotated[int, typer.Option("--limit", "-n", min=1, max=LIMIT_MAX, help="At most so many.")]

_UNPRINTABLE = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def can_ask(*, json_output: bool) -> bool:
    """Whether somebody sits there who can answer a question."""
    return not json_output and sys.stdin.isatty() and sys.stdout.isatty()


def print_json(value: object) -> None:
    """One line of JSON; moments in UTC with a Z, and the data of events as it was stored."""
    import orjson

    sys.stdout.write(orjson.dumps(value, default=str, option=orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS).decode() + "\n")
    sys.stdout.flush()


def stored_json(text: str | None) -> Any:
    """JSON text, to be printed by `print_json` as it is: no number loses a digit."""
    import orjson

    if text is None:
        return None
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    return orjson.Fragment(text)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Rows under their headings, numbers to the right; a sentence where there are none."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    found = list(rows)
    if not found:
        print(empty)
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for index, column in enumerate(columns):
        is_number = all(isinstance(row[index], int | float | None) for row in found)
        table.add_column(column, justify="right" if is_number else "left", overflow="fold")
    for row in found:
        table.add_row(*(Text(shown(cell)) for cell in row))
    Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH).print(table)


def print_facts(facts: Mapping[str, object]) -> None:
    """One fact a line, its name before it."""
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        print(f"{name:<{width}}  {shown(value)}")


def shown(value: object) -> str:
    """A value as people read it: moments in UTC, numbers in groups, nothing as a dash, and no codes that a terminal would obey."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"
    return printable(str(value))


def printable(text: str) -> str:
    """The text with control characters spelt out: what an event or an error holds must not steer the terminal."""
    return text.translate(_UNPRINTABLE)


def shortened(text: str, characters_max: int) -> str:
    """The beginning of a text on one line, with a mark where it was cut."""
    line = " ".join(text.split())
    return line if len(line) <= characters_max else f"{line[: characters_max - 1]}…"


def indented_json(text: str | None) -> str:
    """JSON text for people, over several lines; what is none, as it came."""
    if text is None:
        return "-"
    try:
        return printable(json.dumps(json.loads(text), indent=2, ensure_ascii=False))
    except ValueError:
        return printable(text)


def event_facts(event: RecordedEvent) -> dict[str, Any]:
    """An event for `print_json`."""
    return {
        "position": event.global_position,
        "stream_name": event.stream_name,
        "version": event.version,
        "type": event.type,
        "event_id": event.event_id,
        "recorded_at": event.recorded_at,
        "data": stored_json(event.data),
        "metadata": dict(event.metadata),
    }
