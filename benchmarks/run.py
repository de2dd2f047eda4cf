"""`headwater bench`: runs what is named, prints what came out, and holds it against the goals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from benchmarks.catalogue import BENCHMARKS
from benchmarks.goals import GOALS_FILE, Goal, chosen_goals, judge, load_goals, wanted_part
from benchmarks.loop import run_loop
from benchmarks.measure import Comparison, Measurement, Pending, measure
from benchmarks.plot import plot_results, require_matplotlib
from benchmarks.report import Report, in_words
from benchmarks.scale import FULL, USUAL, Scale
from benchmarks.servers import Servers
from headwater.errors import UsageError
from headwater.telemetry import configure_logging

GROWTH: Final = "growth"
"""It goes up to ten million events where somebody asks for it by name, or checks its goal; the filling alone takes minutes."""


@dataclass(slots=True)
class Results:
    """What a run found out."""

    measured: list[tuple[Comparison, list[Measurement]]] = field(default_factory=list)
    pending: list[Pending] = field(default_factory=list)


def run(
    *,
    names: Sequence[str],
    json_output: bool,
    seconds: float,
    check: bool = False,
    full: bool = False,
    plot: Path | None = None,
    save: Path | None = None,
    scale: Scale | None = None,
    goals_file: Path = GOALS_FILE,
) -> int:
    """Measure, print, and return the exit status; with `json_output` one object a line, as soon as it is known.

    Args:
        names: which benchmarks, or with `check` which goals (by their own names or their benchmarks'); empty for all.
        seconds: how long each system works in each measurement.
        check: measure only what the goals need, and return 1 where one falls short.
        full: the sizes that the promises speak of, also where they take minutes to prepare.
        plot: a folder for a picture of each benchmark.
        save: a file for everything: conditions of the run, measurements, goals.
        scale: sizes of the work; by default what `full` and the names say.
    Raises:
        UsageError: no benchmark or goal has that name, or the folder or file cannot be written.
    """
    configure_logging(log_level="warning")  # the facts of workers that come and go would drown the results
    goals = chosen_goals(load_goals(goals_file), names) if check else []
    chosen = _benchmarks_of(goals) if check else _chosen(names)
    if plot is not None:
        require_matplotlib(plot)
    report = Report(seconds=seconds, json_output=json_output, save=save)
    wants_growth = GROWTH in names or any(goal.benchmark == GROWTH for goal in goals)
    sizes = scale or (FULL if full or wants_growth else USUAL)
    results = run_loop(_run(chosen, goals if check else None, sizes, report, seconds)) if chosen else Results()
    verdicts = [judge(goal, BENCHMARKS, results.measured, results.pending) for goal in goals]
    report.finish(results.measured, results.pending, verdicts)
    if plot is not None:
        plot_results(results.measured, plot)
    return int(any(verdict.is_failure for verdict in verdicts))


def _chosen(names: Sequence[str]) -> list[str]:
    if unknown := [name for name in names if name not in BENCHMARKS]:
        raise UsageError(f"no benchmark is named {unknown[0]!r}; there are: {', '.join(BENCHMARKS)}")
    return [name for name in BENCHMARKS if name in names or not names]


def _benchmarks_of(goals: Sequence[Goal]) -> list[str]:
    wanted = {goal.benchmark for goal in goals}
    return [name for name in BENCHMARKS if name in wanted]


async def _run(names: Sequence[str], goals: Sequence[Goal] | None, scale: Scale, report: Report, seconds: float) -> Results:
    results = Results()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=report.errors, transient=True) as progress:
        task = progress.add_task("servers start", total=None)
        async with Servers(kafka=any(BENCHMARKS[name].needs_kafka for name in names)) as servers:
            for name in names:
                progress.update(task, description=f"{name}: gets ready", total=None, completed=0)
                async for comparison in BENCHMARKS[name].compare(servers, scale):
                    if isinstance(comparison, Pending):
                        results.pending.append(comparison)
                        report.pending(comparison)
                        continue
                    part = comparison if goals is None else wanted_part(comparison, goals)
                    if part is None:
                        continue
                    turns = part.rounds * len(part.contenders)
                    progress.update(task, description=f"{name}: {in_words(part.conditions)}", total=turns, completed=0)
                    measurements = await measure(part, seconds, lambda: progress.advance(task))
                    results.measured.append((part, measurements))
                    report.measured(part, measurements)
                    progress.update(task, description=f"{name}: gets ready", total=None, completed=0)
    return results
