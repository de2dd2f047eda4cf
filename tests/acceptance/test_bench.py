"""`headwater bench`: what it prints, not how fast anything is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.goals import load_goals
from benchmarks.measure import HEADWATER, ROUNDS, Measurement, ratio
from benchmarks.scale import TINY

HEADWATER_COMMAND = Path(sys.executable).with_name("headwater")
ROOT = Path(__file__).parents[2]
FAMILIES = (
    "append",
    "multi_stream",
    "conditional",
    "stream_load",
    "log_read",
    "import",
    "tail",
    "growth",
    "reader_memory",
    "relay",
    "relay_avro",
    "consume",
    "consume_fold",
    "end_to_end",
    "lanes",
    "poison",
)
PNG = b"\x89PNG\r\n"


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(HEADWATER_COMMAND), "bench", *arguments], capture_output=True, text=True, timeout=300, check=False)


@dataclass(frozen=True)
class TinyBench:
    """Runs benchmarks in a process and on servers of their own (the tests' server is not durable), with next to no work in them."""

    environment: dict[str, str]

    def run(self, *names: str, **options: Any) -> subprocess.CompletedProcess[str]:
        call = (
            "import json, pathlib, sys; from benchmarks.run import run; from benchmarks.scale import TINY; options = json.loads(sys.argv[1]); "
            "paths = {name: pathlib.Path(options.pop(name)) for name in ('plot', 'save', 'goals_file') if name in options}; "
            "sys.exit(run(**{'seconds': 0.1, 'json_output': False, 'scale': TINY, **options, **paths}))"
        )
        command = [sys.executable, "-c", call, json.dumps({"names": names, **options}, default=str)]
        return subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=900, check=False)


@pytest.fixture(scope="module")
def tiny_bench() -> TinyBench:
    return TinyBench({name: value for name, value in os.environ.items() if name not in ("HEADWATER_POSTGRES", "HEADWATER_KAFKA")})


@dataclass(frozen=True)
class Everything:
    """One tiny run of all families."""

    lines: list[dict[str, Any]]
    saved: dict[str, Any]
    pictures: dict[str, bytes]

    def systems(self, family: str) -> set[str]:
        return {line["system"] for line in self.lines if line["bench"] == family}

    def pending(self) -> set[str]:
        return {one["bench"] for one in self.saved["pending"]}


@pytest.fixture(scope="module")
def everything(tiny_bench: TinyBench, tmp_path_factory: pytest.TempPathFactory) -> Everything:
    folder = tmp_path_factory.mktemp("bench")
    run = tiny_bench.run(*FAMILIES, json_output=True, plot=folder / "plots", save=folder / "results.json")
    assert run.returncode == 0, run.stderr
    pictures = {file.stem: file.read_bytes() for file in (folder / "plots").iterdir()}
    return Everything([json.loads(line) for line in run.stdout.splitlines()], json.loads((folder / "results.json").read_text()), pictures)


def test_json_is_one_object_a_line_for_each_system_under_the_same_conditions(everything: Everything) -> None:
    appends = [line for line in everything.lines if line["bench"] == "append"]
    expected = [*((callers, 1) for callers in TINY.callers), *((1, batch) for batch in TINY.batches)]
    compared = {(m["conditions"]["callers"], m["conditions"]["batch"]): m["conditions"] for m in appends}
    assert list(compared) == expected
    for measurement in appends:
        conditions = measurement["conditions"]
        assert conditions == compared[conditions["callers"], conditions["batch"]]
        assert conditions["durable"] is True
        assert {"callers", "batch", "bytes"} <= set(conditions)
        assert measurement["per_second"] > 0
        assert measurement["per_second"] in measurement["samples"], "the median of an odd number is one of them"
        assert len(measurement["samples"]) == ROUNDS


def test_appends_stand_beside_raw_drivers_another_library_and_the_simple_ways_to_keep_order(everything: Everything) -> None:
    assert everything.systems("append") == {
        *(HEADWATER, "headwater, encoded beforehand", "raw asyncpg", "raw asyncpg, grouped", "one connection per caller"),
        *("shared lock, as Headwater", "exclusive lock", "transaction-id watermark", "no order"),
        *("eventsourcing", "eventsourcing, database functions"),
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_runs_or_says_what_it_waits_for(everything: Everything, family: str) -> None:
    values = [line.get("per_second", line.get("value")) for line in everything.lines if line["bench"] == family]

    assert values or family in everything.pending()
    assert all(value >= 0 for value in values)


def test_every_goal_names_systems_that_are_measured(everything: Everything) -> None:
    for goal in load_goals():
        if goal.benchmark in FAMILIES and goal.benchmark not in (*everything.pending(), "growth"):
            assert set(goal.systems) <= everything.systems(goal.benchmark), goal.name
            metrics = {line.get("metric", "rate") for line in everything.lines if line["bench"] == goal.benchmark}
            assert goal.metric in metrics, goal.name


def test_the_saved_file_holds_what_was_printed_and_where(everything: Everything) -> None:
    assert everything.saved["measurements"] == everything.lines
    assert everything.saved["machine"]["cpus"] == os.cpu_count()
    assert {"headwater", "asyncpg", "eventsourcing"} <= set(everything.saved["versions"])


def test_each_benchmark_has_its_picture(everything: Everything) -> None:
    measured = {line["bench"] for line in everything.lines}

    assert all(picture.startswith(PNG) for picture in everything.pictures.values())
    assert {name.partition("-")[0] for name in everything.pictures} == measured
    assert {"append", "tail-p50", "tail-p99", "reader_memory-peak"} <= set(everything.pictures)


def test_a_goal_raised_to_the_impossible_fails_the_check_and_the_others_do_not(tiny_bench: TinyBench, tmp_path: Path) -> None:
    goals = tmp_path / "goals.toml"
    goals.write_text(
        '[possible]\nissue = 5\nbenchmark = "log_read"\nnumerator = "headwater"\ndenominator = "raw asyncpg"\nat_least = 0.0001\n'
        '[impossible]\nissue = 5\nbenchmark = "log_read"\nnumerator = "headwater"\ndenominator = "eventsourcing"\nat_least = 1000000\n'
        '[later]\nissue = 6\nbenchmark = "not_written_yet"\nnumerator = "16 lanes"\nat_least = 10\n'
    )

    run = tiny_bench.run(check=True, goals_file=goals, json_output=True)
    alone = tiny_bench.run("possible", "later", check=True, goals_file=goals)

    verdicts = {line["goal"]: line for line in map(json.loads, run.stdout.splitlines()) if "goal" in line}
    assert run.returncode == 1, run.stderr
    assert {name: verdict["status"] for name, verdict in verdicts.items()} == {
        "possible": "met",
        "impossible": "falls short",
        "later": "pending",
    }
    assert verdicts["impossible"]["at_least"] == 1_000_000
    assert 0 < verdicts["impossible"]["measured"] < 1_000_000
    assert alone.returncode == 0, alone.stderr
    assert "possible" in alone.stdout
    assert "pending" in alone.stdout
    assert "impossible" not in alone.stdout


def test_an_unknown_benchmark_names_those_there_are_and_exits_2() -> None:
    run = bench("apend")

    assert run.returncode == 2
    assert run.stdout == ""
    for name in ("'apend'", *FAMILIES):
        assert name in run.stderr


def test_an_unknown_goal_names_those_there_are_and_exits_2() -> None:
    run = bench("--check", "apend")

    assert run.returncode == 2
    for name in ("'apend'", "append-64-beside-raw", "tail-p99", "lanes"):
        assert name in run.stderr


def test_a_place_that_results_cannot_go_to_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    for arguments in (("--save", str(tmp_path / "nowhere" / "results.json")), ("--plot", str(tmp_path / "file"))):
        run = bench("append", *arguments)
        assert (run.returncode, run.stdout) == (2, "")
        assert str(tmp_path) in run.stderr


def test_ratio_compares_neighbouring_samples_rather_than_medians() -> None:
    """The machine became three times slower in mid-run; both systems felt it."""
    ours = Measurement("append", HEADWATER, 200.0, (600.0, 200.0, 200.0), {})
    raw = Measurement("append", "raw asyncpg", 1200.0, (1200.0, 1200.0, 400.0), {})

    assert ratio(ours, raw) == 0.5
