"""`headwater bench`: what it prints, not how fast anything is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.measure import HEADWATER, ROUNDS, Measurement, ratio

HEADWATER_COMMAND = Path(sys.executable).with_name("headwater")


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(HEADWATER_COMMAND), "bench", *arguments], capture_output=True, text=True, timeout=300, check=False)


def test_json_is_one_object_a_line_for_both_systems_under_the_same_conditions() -> None:
    run = bench("append", "--json", "--seconds", "0.3")

    assert run.returncode == 0, run.stderr
    measurements: list[dict[str, Any]] = [json.loads(line) for line in run.stdout.splitlines()]
    assert [(m["bench"], m["system"]) for m in measurements] == [("append", "headwater"), ("append", "raw asyncpg")] * 3
    for ours, raw in zip(measurements[::2], measurements[1::2], strict=True):
        assert ours["conditions"] == raw["conditions"]
    for measurement in measurements:
        assert measurement["per_second"] > 0
        assert measurement["per_second"] in measurement["samples"], "the median of an odd number is one of them"
        assert len(measurement["samples"]) == ROUNDS
        assert measurement["conditions"]["durable"] is True
        assert {"callers", "batch", "bytes"} <= set(measurement["conditions"])
    assert [(m["conditions"]["callers"], m["conditions"]["batch"]) for m in measurements[::2]] == [(1, 1), (16, 1), (1, 100)]


def test_an_unknown_benchmark_names_those_there_are_and_exits_2() -> None:
    run = bench("apend")

    assert run.returncode == 2
    assert run.stdout == ""
    for name in ("'apend'", "append", "log_read", "relay", "consume"):
        assert name in run.stderr


def test_ratio_compares_neighbouring_samples_rather_than_medians() -> None:
    """The machine became three times slower in mid-run; both systems felt it."""
    ours = Measurement("append", HEADWATER, 200.0, (600.0, 200.0, 200.0), {})
    raw = Measurement("append", "raw asyncpg", 1200.0, (1200.0, 1200.0, 400.0), {})

    assert ratio(ours, raw) == 0.5
