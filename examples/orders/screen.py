"""What the demo shows: progress while it runs, then a summary and the checks."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from orders.checks import Check, Summary
from orders.latency import percentile


@dataclass(frozen=True, slots=True)
class Report:
    """How a run ended."""

    summary: Summary
    checks: Sequence[Check]
    seconds: float
    """From the first order placed to the last one that ended."""
    paid_delays_seconds: Sequence[float]
    """From a payment to the status that shows it, in order of length."""
    kills: Counter[str] | None = None
    """Processes killed, by service; None when nobody was to be killed."""

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)

    @property
    def orders_per_second(self) -> float:
        return self.summary.orders / self.seconds if self.seconds else 0.0

    def as_json(self) -> str:
        """One object on one line."""
        checks = [asdict(check) for check in self.checks]
        return json.dumps({"ok": self.ok, "summary": {**self.summary.as_dict(), **self._measured()}, "checks": checks}, ensure_ascii=False)

    def paid_shown_ms(self, percent: int) -> float | None:
        """So many percent of the payments showed within this time."""
        seconds = percentile(self.paid_delays_seconds, percent)
        return None if seconds is None else round(seconds * 1000, 1)

    def _measured(self) -> dict[str, Any]:
        measured = {
            "paid_shown_ms_p50": self.paid_shown_ms(50),
            "paid_shown_ms_p99": self.paid_shown_ms(99),
            "seconds": round(self.seconds, 3),
            "orders_per_second": round(self.orders_per_second, 1),
        }
        return measured if self.kills is None else {**measured, "kills": self.kills.total(), "kills_by_service": dict(self.kills)}


@dataclass(frozen=True, slots=True)
class Counts:
    """How far the orders are."""

    placed: int = 0
    paid: int = 0
    confirmed: int = 0
    cancelled: int = 0
    logged: int = 0
    """Events in all logs."""
    in_kafka: int = 0

    @property
    def ended(self) -> int:
        return self.confirmed + self.cancelled


class Screen:
    """Progress goes to standard error, so that standard output holds the result alone."""

    def __init__(self, *, json_output: bool) -> None:
        self._json_output = json_output
        self._out, self._err = Console(), Console(stderr=True, soft_wrap=True)

    def say(self, sentence: str) -> None:
        """One line on what happens now."""
        if not self._json_output:
            self._err.print(f"[dim]·[/] {sentence}")

    @contextmanager
    def progress(self, order_count: int) -> Iterator[LiveCounts]:
        """Bars that move while the block runs; on a terminal only."""
        words = (TextColumn("{task.description:<9}"), TextColumn("{task.fields[note]}"))
        columns = (SpinnerColumn(), words[0], BarColumn(), MofNCompleteColumn(), words[1], TimeElapsedColumn())
        with Progress(*columns, console=self._err, disable=self._json_output or not sys.stderr.isatty()) as bars:
            yield LiveCounts(bars, order_count)

    def show(self, report: Report) -> None:
        """The result: tables for people, or one JSON object."""
        if self._json_output:
            print(report.as_json())
            return
        self._out.print(_summary_table(report))
        self._out.print(_checks_table(report.checks))
        failed = sum(not check.ok for check in report.checks)
        self._out.print(
            f"[bold red]{failed} of {len(report.checks)} checks failed[/]"
            if failed
            else f"[bold green]all {len(report.checks)} checks hold[/]"
        )


class LiveCounts:
    """The bars of one run."""

    def __init__(self, bars: Progress, order_count: int) -> None:
        self._bars = bars
        self.kills: Counter[str] = Counter()
        self._placed = self._bar("placed", order_count)
        self._ended = self._bar("ended", order_count)
        self._in_kafka = self._bar("in Kafka", None)

    def update(self, counts: Counts) -> None:
        """Move the bars."""
        killed = f"[red]{self.kills.total()} processes killed[/]" if self.kills else ""
        self._bars.update(self._placed, completed=counts.placed, note=killed)
        note = f"[green]{counts.confirmed:,} confirmed[/], [yellow]{counts.cancelled:,} cancelled[/]"
        self._bars.update(self._ended, completed=counts.ended, note=note)
        self._bars.update(self._in_kafka, completed=counts.in_kafka, total=counts.logged, note="events")

    def _bar(self, name: str, total: int | None) -> TaskID:
        return self._bars.add_task(name, total=total, note="")


def _summary_table(report: Report) -> Table:
    summary = report.summary
    table = Table(title="The orders", title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_row("orders", f"{summary.orders:,}")
    table.add_row("confirmed", f"[green]{summary.confirmed:,}[/]")
    table.add_row("cancelled for want of stock", f"[yellow]{summary.out_of_stock:,}[/]")
    table.add_row("cancelled, payment declined", f"[yellow]{summary.declined:,}[/]")
    table.add_row("cancelled, not paid in time", f"[yellow]{summary.unpaid:,}[/]")
    table.add_row("units demanded", f"{summary.units_demanded:,}")
    table.add_row("units in stock at first", f"{summary.units_in_stock:,}")
    table.add_row("units shipped", f"{summary.units_shipped:,}")
    table.add_row("units reserved and given back", f"{summary.units_released:,}")
    table.add_row("units left", f"{summary.units_left:,}")
    table.add_row("revenue", f"{summary.revenue:,}")
    table.add_row("late money, given back", f"{summary.refunded:,}")
    table.add_row("events in all logs", f"{summary.events:,}")
    if report.kills is not None:
        table.add_row("processes killed", f"[red]{report.kills.total()}[/]")
    table.add_row("a payment shows in the status (p50, p99)", f"{report.paid_shown_ms(50)} ms, {report.paid_shown_ms(99)} ms")
    table.add_row("orders per second", f"{report.orders_per_second:,.0f}")
    table.add_row("seconds", f"{report.seconds:.1f}")
    return table


def _checks_table(checks: Sequence[Check]) -> Table:
    table = Table(title="The checks", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for check in checks:
        table.add_row("[green]✔[/]" if check.ok else "[bold red]✘[/]", check.name, check.detail.replace("[", "\\["))
    return table
