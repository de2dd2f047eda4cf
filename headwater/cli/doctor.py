"""`headwater doctor`: what is not as the promises need it, what that costs, and what to do."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from headwater.cli.output import PIPE_WIDTH, print_json, printable
from headwater.cli.running import run_async
from headwater.cli.target import load_service
from headwater.config import load_settings
from headwater.doctor import Finding, Severity, examine, has_failure, worst_first
from headwater.errors import TargetNotFound

if TYPE_CHECKING:
    from rich.text import Text

    from headwater.service import Service

_COLOURS: Final = {Severity.FAILURE: "bold red", Severity.WARNING: "yellow", Severity.NOTE: "cyan", Severity.OK: "green"}


def run_doctor(target: str | None, *, json_output: bool) -> int:
    """Examine, print, and return the exit status: 1 when there is a failure."""
    service, fault = _find_service(target)
    categories = {event_class.event_category for event_class in service.events.registry} if service is not None else set[str]()
    name = None if service is None else service.name
    named = target is not None
    settings = load_settings()
    uses_kafka = (settings.source if service is None else service.source_with(settings)) == "kafka"
    findings = run_async(
        examine(
            settings,
            service_name=name,
            service_fault=fault,
            is_service_named=named,
            categories=categories,
            uses_kafka=uses_kafka,
        )
    )
    if json_output:
        _print_for_programs(findings)
    else:
        _print_for_people(findings)
    return 1 if has_failure(findings) else 0


def _find_service(target: str | None) -> tuple[Service | None, str]:
    """The service, or why there is none; one that was named must be there."""
    try:
        return load_service(target), ""
    except TargetNotFound as error:
        if target is not None:
            raise
        return None, str(error)
    except Exception as error:  # noqa: BLE001 - a user's module may raise anything, and the servers are to be checked all the same
        # Its message may hold anything, too, such as the settings that it did not like.
        return None, f"its module raises {type(error).__name__} when it is imported"


def _print_for_programs(findings: Sequence[Finding]) -> None:
    counts = Counter(finding.severity for finding in findings)
    print_json(
        {
            "healthy": not has_failure(findings),
            "counts": {severity.value: counts[severity] for severity in Severity},
            "findings": [asdict(finding) for finding in findings],
        }
    )


def _print_for_people(findings: Sequence[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("severity", no_wrap=True)
    table.add_column("name", no_wrap=True)
    table.add_column("finding", overflow="fold")
    for finding in worst_first(findings):
        table.add_row(Text(finding.severity, style=_COLOURS[finding.severity]), Text(finding.name), _told(finding))
    console = Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
    console.print(table)
    counts = Counter(finding.severity for finding in findings)
    console.print()
    console.print(", ".join(_counted(counts[severity], severity) for severity in _COLOURS), markup=False)


def _told(finding: Finding) -> Text:
    from rich.text import Text

    told = Text(printable(finding.found))
    if finding.severity is not Severity.OK:
        for label, text in (("expected", finding.expected), ("costs", finding.cost), ("do", finding.remedy)):
            told.append(f"\n{label}: ", style="dim")
            told.append(printable(text))
        told.append("\n")
    return told


def _counted(count: int, severity: Severity) -> str:
    return f"{count} {severity.value}{'' if count == 1 or severity is Severity.OK else 's'}"
