"""`headwater bench`: the measurements of `benchmarks/`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from headwater.cli.checkout import import_from_checkout


def run_benchmarks(
    names: Sequence[str], *, json_output: bool, seconds: float, check: bool, full: bool, plot: Path | None, save: Path | None
) -> int:
    """Run those named, or all, or what the goals need; returns the exit status."""
    run = import_from_checkout(".", "benchmarks.run").run
    status: int = run(names=list(names), json_output=json_output, seconds=seconds, check=check, full=full, plot=plot, save=save)
    return status
