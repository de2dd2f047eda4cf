"""`headwater bench`: the measurements of `benchmarks/`."""

from __future__ import annotations

from collections.abc import Sequence

from headwater.cli.checkout import import_from_checkout


def run_benchmarks(names: Sequence[str], *, json_output: bool, seconds: float) -> int:
    """Run those named, or all; returns the exit status."""
    status: int = import_from_checkout(".", "benchmarks.run").run(names=list(names), json_output=json_output, seconds=seconds)
    return status
