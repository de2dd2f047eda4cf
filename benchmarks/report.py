"""What a run tells: to people, to programs, and to a file."""

from __future__ import annotations

import json
import os
import platform
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.goals import Status, Verdict
from benchmarks.measure import RATE, Comparison, Measurement, Pending, ratio
from headwater.errors import UsageError

TOLD_CONDITIONS: Final = (
    *("callers", "batch", "streams", "events_per_stream", "events", "bytes", "appends_per_second"),
    *("format", "effect", "orders", "services"),
)
COLOURS: Final = {Status.MET: "green", Status.SHORT: "red", Status.PENDING: "yellow", Status.NOT_MEASURED: "red"}
PIPE_WIDTH: Final = 160
"""Columns of a table that goes to a file or a pipe; on a terminal, its own width."""

Measured = Iterable[tuple[Comparison, Sequence[Measurement]]]


class Report:
    """Tells each measurement as soon as it is known, and the whole at the end."""

    def __init__(self, *, seconds: float, json_output: bool, save: Path | None) -> None:
        self._seconds, self._json_output, self._save = seconds, json_output, save
        self.errors = Console(stderr=True)
        self._output = Console() if Console().is_terminal else Console(width=PIPE_WIDTH)
        if save is not None and not save.parent.is_dir():
            raise UsageError(f"{save.parent} is no folder; name a file in one that exists: --save results.json")

    def measured(self, comparison: Comparison, results: Sequence[Measurement]) -> None:
        """One comparison is finished."""
        if self._json_output:
            for result in results:
                print(json.dumps(result.as_json()), flush=True)
        figures = ", ".join(f"{result.system} {in_figures(result)}" for result in results)
        line = f"{comparison.bench} ({in_words(comparison.conditions)}): {figures}"
        self.errors.print(line, highlight=False, markup=False, soft_wrap=True)

    def pending(self, one: Pending) -> None:
        """One comparison cannot be made in this version."""
        line = f"{one.bench} ({in_words(one.conditions)}): pending, {one.reason}"
        self.errors.print(line, highlight=False, markup=False, soft_wrap=True)

    def finish(self, measured: Measured, pending: Sequence[Pending], verdicts: Sequence[Verdict]) -> None:
        """The run is over: print the tables, or the goals' lines, and write the file."""
        measured = list(measured)
        if self._json_output:
            for verdict in verdicts:
                print(json.dumps(verdict.as_json()), flush=True)
        else:
            self._print_tables(measured, pending, verdicts)
        if self._save is not None:
            content = as_document(measured, pending, verdicts, seconds=self._seconds)
            try:
                self._save.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            except OSError as error:
                raise UsageError(f"the results cannot be written to {self._save}: {error.strerror}") from None

    def _print_tables(self, measured: Measured, pending: Sequence[Pending], verdicts: Sequence[Verdict]) -> None:
        if measured:
            self._output.print(results_table(measured))
        for one in {(one.bench, one.reason): one for one in pending}.values():
            self._output.print(f"{one.bench}: pending, {one.reason}", highlight=False, markup=False)
        if verdicts:
            self._output.print(goals_table(verdicts))
            counts = {status: sum(verdict.status is status for verdict in verdicts) for status in Status}
            self._output.print(", ".join(f"{count} {status.value}" for status, count in counts.items() if count), highlight=False)


def results_table(measured: Measured) -> Table:
    """Every system beside the first of its comparison."""
    table = Table(title="Median of interleaved turns; ratio is the first system's figure to this one's")
    for heading in ("benchmark", "conditions", "system"):
        table.add_column(heading)
    table.add_column("figure", justify="right")
    table.add_column("ratio", justify="right")
    for comparison, results in measured:
        by_metric: defaultdict[str, list[Measurement]] = defaultdict(list)
        for result in results:
            by_metric[result.metric.name].append(result)
        for metric, ones in by_metric.items():
            for number, result in enumerate(ones):
                name = comparison.bench if metric == RATE.name else f"{comparison.bench}, {metric}"
                label = ("", "") if number else (name, in_words(comparison.conditions))
                is_last = number == len(ones) - 1
                table.add_row(*label, result.system, in_figures(result), _times(ones[0], result), end_section=is_last)
    return table


def goals_table(verdicts: Sequence[Verdict]) -> Table:
    """Goal and measurement side by side."""
    table = Table(title="Goals (benchmarks/goals.toml)")
    for heading in ("issue", "goal", "figure", "wanted"):
        table.add_column(heading)
    table.add_column("measured", justify="right")
    table.add_column("")
    for verdict in verdicts:
        unit = "" if verdict.unit == "times" else f" {verdict.unit}"
        measured = "-" if verdict.measured is None else f"{verdict.measured:,.2f}{unit}"
        told = f"[{COLOURS[verdict.status]}]{verdict.status.value}[/]{f': {verdict.reason}' if verdict.reason else ''}"
        table.add_row(str(verdict.goal.issue), verdict.goal.name, verdict.goal.figure, f"{verdict.goal.limit}{unit}", measured, told)
    return table


def as_document(measured: Measured, pending: Sequence[Pending], verdicts: Sequence[Verdict], *, seconds: float) -> dict[str, Any]:
    """Everything of a run for `--save`: enough to read it a year later."""
    return {
        "recorded_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cpus": os.cpu_count(),
            "system": platform.system(),
            "architecture": platform.machine(),
            "python": platform.python_version(),
        },
        "versions": {name: version(name) for name in ("headwater", "asyncpg", "aiokafka", "pydantic", "eventsourcing", "psycopg")},
        "seconds": seconds,
        "measurements": [result.as_json() for _, results in measured for result in results],
        "pending": [{"bench": one.bench, "conditions": dict(one.conditions), "reason": one.reason} for one in pending],
        "goals": [verdict.as_json() for verdict in verdicts],
    }


def in_figures(result: Measurement) -> str:
    """A value with its unit."""
    digits = 0 if result.value >= 100 else 1 if result.value >= 10 else 2
    unit = "/s" if result.metric is RATE else f" {result.metric.unit}"
    return f"{result.value:,.{digits}f}{unit}"


def in_words(conditions: Mapping[str, Any]) -> str:
    """What tells the comparisons of a benchmark apart."""
    return ", ".join(f"{name.replace('_', ' ')} {conditions[name]}" for name in TOLD_CONDITIONS if name in conditions)


def _times(first: Measurement, other: Measurement) -> str:
    return "" if other is first or not all(other.samples) else f"{ratio(first, other):.2f}"
