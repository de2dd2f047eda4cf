"""`headwater bench`: runs what is named and prints what came out."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks.append import compare_append
from benchmarks.consume import compare_consume
from benchmarks.log_read import compare_log_read
from benchmarks.measure import HEADWATER, Comparison, Comparisons, Measurement, measure, ratio
from benchmarks.order_case import compare_orders
from benchmarks.relay import compare_relay
from benchmarks.servers import Servers
from headwater.errors import UsageError
from headwater.telemetry import configure_logging

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One name on the command line, and what it compares."""

    compare: Callable[[Servers], Comparisons]
    needs_kafka: bool = False


BENCHMARKS: Final = {
    "append": Benchmark(compare_append),
    "log_read": Benchmark(compare_log_read),
    "relay": Benchmark(compare_relay, needs_kafka=True),
    "consume": Benchmark(compare_consume, needs_kafka=True),
    "orders": Benchmark(compare_orders),
}


def run(*, names: Sequence[str], json_output: bool, seconds: float) -> int:
    """Measure, print, and return the exit status; with `json_output` one object a line, as soon as it is known.

    Args:
        names: which benchmarks; empty for all.
        seconds: how long each system works in each measurement.
    Raises:
        UsageError: no benchmark has that name.
    """
    if unknown := [name for name in names if name not in BENCHMARKS]:
        raise UsageError(f"no benchmark is named {unknown[0]!r}; there are: {', '.join(BENCHMARKS)}")
    configure_logging(log_level="warning")  # the facts of workers that come and go would drown the results
    measured = _run_loop(_run([name for name in BENCHMARKS if name in names or not names], json_output, seconds))
    if not json_output:
        Console().print(_table(measured))
    return 0


async def _run(names: Sequence[str], json_output: bool, seconds: float) -> list[list[Measurement]]:
    errors = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    measured: list[list[Measurement]] = []
    with Progress(*columns, console=errors, transient=True) as progress:
        task = progress.add_task("servers start", total=None)
        async with Servers(kafka=any(BENCHMARKS[name].needs_kafka for name in names)) as servers:
            for name in names:
                progress.update(task, description=f"{name}: gets ready", total=None, completed=0)
                async for comparison in BENCHMARKS[name].compare(servers):
                    turns = comparison.rounds * len(comparison.contenders)
                    progress.update(task, description=f"{name}: {_in_words(comparison.conditions)}", total=turns, completed=0)
                    results = await measure(comparison, seconds, lambda: progress.advance(task))
                    measured.append(results)
                    _tell(comparison, results, errors, json_output=json_output)
    return measured


def _tell(comparison: Comparison, results: Sequence[Measurement], errors: Console, *, json_output: bool) -> None:
    if json_output:
        for result in results:
            print(json.dumps(result.as_json()), flush=True)
    rates = ", ".join(f"{result.system} {result.per_second:,.0f}/s" for result in results)
    errors.print(f"{comparison.bench} ({_in_words(comparison.conditions)}): {rates}", highlight=False, markup=False, soft_wrap=True)


def _table(measured: Sequence[Sequence[Measurement]]) -> Table:
    table = Table(title="Events per second, median of interleaved samples; ratio is Headwater's rate to that system's")
    for heading in ("benchmark", "conditions", "system"):
        table.add_column(heading)
    table.add_column("per second", justify="right")
    table.add_column("ratio", justify="right")
    for results in measured:
        ours = next(result for result in results if result.system == HEADWATER)
        for number, result in enumerate(results):
            first = number == 0
            times = "" if result is ours else f"{ratio(ours, result):.2f}"
            label = (result.bench, _in_words(result.conditions)) if first else ("", "")
            table.add_row(*label, result.system, f"{result.per_second:,.0f}", times, end_section=number == len(results) - 1)
    return table


def _in_words(conditions: Any) -> str:
    wanted = ("callers", "batch", "bytes", "effect", "orders", "services")
    return ", ".join(f"{name} {conditions[name]}" for name in wanted if name in conditions)


def _run_loop(work: Coroutine[Any, Any, Answer]) -> Answer:
    """Run on uvloop where there is one, as a service does."""
    if sys.platform == "win32":
        return asyncio.run(work)
    import uvloop

    return uvloop.run(work)
