"""The goals of `headwater bench --check`: the file, and the verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.catalogue import BENCHMARKS
from benchmarks.goals import Goal, Status, chosen_goals, judge, load_goals, wanted_part
from benchmarks.measure import HEADWATER, RATE, Comparison, Contender, Measurement, Metric, Pending
from benchmarks.scale import FULL, USUAL
from headwater.errors import UsageError

ASKED_FOR = {
    (5, "append", "headwater / eventsourcing", "at least 20"),
    (5, "append", "headwater / one connection per caller", "at least 2"),
    (5, "append", "headwater / raw asyncpg, grouped", "at least 0.5"),
    (5, "append", "headwater / raw asyncpg", "at least 0.65"),
    (5, "import", "headwater / raw binary COPY", "at least 0.5"),
    (5, "log_read", "headwater / raw asyncpg", "at least 0.65"),
    (5, "log_read", "headwater / eventsourcing", "at least 1.5"),
    (5, "growth", "100,000 events / 10,000,000 events", "at most 1.2"),
    (5, "reader_memory", "peak of headwater", "at most 200"),
    (5, "tail", "p50 of headwater", "at most 5"),
    (5, "tail", "p99 of headwater", "at most 25"),
    (5, "tail", "statements of headwater", "at most 5"),
    (6, "relay", "headwater / raw aiokafka", "at least 0.65"),
    (6, "relay_avro", "headwater / raw aiokafka", "at least 0.5"),
    (6, "relay", "headwater / raw asyncpg + aiokafka", "at least 0.65"),
    (6, "relay_avro", "headwater / raw asyncpg + aiokafka", "at least 1"),
    (6, "consume_fold", "headwater / raw aiokafka, Avro and pydantic", "at least 0.5"),
    (6, "consume_fold", "headwater / FastStream, typed JSON", "at least 2.5"),
    (6, "consume", "headwater", "at least 8000"),
    (6, "lanes", "16 lanes / 1 lane", "at least 10"),
    (6, "end_to_end", "p50 of headwater", "at most 20"),
    (6, "end_to_end", "p99 of headwater", "at most 80"),
    (6, "poison", "p99 of with a poison message / without", "at most 1.5"),
}


async def _never(_seconds: float) -> float:
    raise AssertionError("nothing is measured here")


def comparison(bench: str = "append", **conditions: Any) -> Comparison:
    return Comparison(bench, conditions, [Contender(system, _never) for system in (HEADWATER, "raw asyncpg", "eventsourcing")])


def measured(ours: float, raw: float) -> list[Measurement]:
    return [Measurement("append", HEADWATER, ours, (ours,) * 5, {}), Measurement("append", "raw asyncpg", raw, (raw,) * 5, {})]


def goal(**fields: Any) -> Goal:
    return Goal.model_validate(
        {"name": "some", "issue": 5, "benchmark": "append", "numerator": HEADWATER, "denominator": "raw asyncpg", "at_least": 0.5, **fields}
    )


def test_the_file_holds_every_ratio_that_the_issues_ask_for() -> None:
    goals = load_goals()

    assert {(one.issue, one.benchmark, one.figure, one.limit) for one in goals} == ASKED_FOR
    assert len({one.name for one in goals}) == len(goals)


def test_the_conditions_that_goals_name_are_measured() -> None:
    for one in load_goals():
        if one.benchmark == "append":
            assert one.where["callers"] in USUAL.callers
        if one.benchmark == "growth":
            assert one.systems == ("100,000 events", "10,000,000 events")
    assert {100_000, 10_000_000} <= set(FULL.growth_events)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('[fast]\nissue = 5\nbenchmark = "append"\nnumerator = "headwater"\n', "give either at_least or at_most"),
        (
            '[fast]\nissue = 5\nbenchmark = "append"\nnumerator = "headwater"\nat_least = 1\nat_most = 2\n',
            "give either at_least or at_most",
        ),
        ('[fast]\nissue = 5\nbenchmark = "append"\nnumerator = "headwater"\nat_leest = 1\n', "at_leest"),
        ('[fast]\nissue = 5\nbenchmark = "append"\nnumerator = "headwater"\nat_least = 0\n', "greater than 0"),
        ("[fast\n", "cannot be read"),
    ],
)
def test_a_file_that_says_nothing_sensible_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "goals.toml"
    file.write_text(text, encoding="utf-8")

    with pytest.raises(UsageError, match=complaint):
        load_goals(file)


def test_goals_are_chosen_by_their_name_or_their_benchmark() -> None:
    goals = load_goals()

    assert [one.name for one in chosen_goals(goals, ["tail-p50"])] == ["tail-p50"]
    assert {one.benchmark for one in chosen_goals(goals, ["append", "lanes"])} == {"append", "lanes"}
    assert chosen_goals(goals, []) == list(goals)
    with pytest.raises(UsageError, match="'tail-p5'"):
        chosen_goals(goals, ["tail-p5"])


@pytest.mark.parametrize(
    ("limits", "status"),
    [
        ({"at_least": 0.5}, Status.MET),
        ({"at_least": 0.51}, Status.SHORT),
        ({"at_least": None, "at_most": 0.5}, Status.MET),
        ({"at_least": None, "at_most": 0.49}, Status.SHORT),
    ],
)
def test_a_ratio_is_held_against_its_limit(limits: dict[str, Any], status: Status) -> None:
    verdict = judge(goal(**limits), BENCHMARKS, [(comparison(), measured(50, 100))], [])

    assert (verdict.status, verdict.measured, verdict.is_failure) == (status, 0.5, status is Status.SHORT)


def test_a_goal_takes_its_figure_from_the_conditions_it_names() -> None:
    results = [(comparison(callers=1), measured(10, 100)), (comparison(callers=64), measured(90, 100))]

    assert judge(goal(where={"callers": 64}), BENCHMARKS, results, []).measured == 0.9


def test_a_figure_without_a_denominator_is_the_measurement_itself() -> None:
    latency = Measurement("append", HEADWATER, 4.2, (4.0, 4.2, 9.0), {}, Metric("p50", "ms"))

    verdict = judge(goal(denominator=None, metric="p50", at_least=None, at_most=5), BENCHMARKS, [(comparison(), [latency])], [])

    assert (verdict.status, verdict.measured, verdict.unit) == (Status.MET, 4.2, "ms")


def test_what_does_not_exist_yet_is_pending_and_no_failure() -> None:
    no_benchmark = judge(goal(benchmark="not_written_yet"), BENCHMARKS, [], [])
    no_headwater = judge(goal(where={"callers": 64}), BENCHMARKS, [], [Pending("append", "not in this version", {"callers": 64})])

    assert (no_benchmark.status, no_benchmark.is_failure) == (Status.PENDING, False)
    assert (no_headwater.status, no_headwater.reason, no_headwater.is_failure) == (Status.PENDING, "not in this version", False)


def test_a_goal_that_matches_nothing_that_was_measured_is_a_failure() -> None:
    """Else a misspelt system would pass for ever."""
    verdict = judge(goal(denominator="raw asnycpg"), BENCHMARKS, [(comparison(), measured(50, 100))], [])

    assert (verdict.status, verdict.is_failure) == (Status.NOT_MEASURED, True)


def test_a_check_measures_only_what_its_goals_need() -> None:
    part = wanted_part(comparison(callers=64), [goal(where={"callers": 64})])

    assert part is not None
    assert [contender.system for contender in part.contenders] == [HEADWATER, "raw asyncpg"]
    assert part.metrics == (RATE,)
    assert wanted_part(comparison(callers=1), [goal(where={"callers": 64})]) is None
