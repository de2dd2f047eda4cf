"""The checker of the matrix sees what it is there to see, and docs/faults.md names the rows that there are."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import cast

import pytest

from tests.fault.matrix.checking import compare
from tests.fault.matrix.rows import PAIRS, Pair
from tests.support import DOCS

LOG = {"matrix-a": [1, 3, 4], "matrix-b": [2, 5]}
FAULTS = ("log_faults", "effects_missing", "effects_repeated", "keys_out_of_order", "dead_letters")


@pytest.mark.parametrize(
    ("log", "effects", "wrong"),
    [
        pytest.param(LOG, LOG, {}, id="all is well"),
        pytest.param(LOG, {**LOG, "matrix-b": [2]}, {"effects_missing": 1}, id="missing"),
        pytest.param(LOG, {"matrix-a": [1, 3, 4]}, {"effects_missing": 2}, id="a stream is missing"),
        pytest.param(LOG, {**LOG, "matrix-b": [2, 5, 5]}, {"effects_repeated": 1}, id="repeated"),
        pytest.param(LOG, {**LOG, "matrix-a": [1, 3, 4, 1, 3, 4]}, {"effects_repeated": 3}, id="a stream is repeated"),
        pytest.param(LOG, {**LOG, "matrix-a": [3, 1, 4]}, {"keys_out_of_order": 1}, id="out of order"),
        pytest.param(
            LOG, {**LOG, "matrix-a": [4, 3]}, {"keys_out_of_order": 1, "effects_missing": 1}, id="out of order, and one is missing"
        ),
        pytest.param(LOG, {"matrix-a": [1, 3, 4, 5], "matrix-b": [2]}, {"keys_out_of_order": 1}, id="in another stream"),
        pytest.param(LOG, {**LOG, "matrix-c": [6]}, {"effects_repeated": 1, "keys_out_of_order": 1}, id="of an append that was aborted"),
        pytest.param({**LOG, "matrix-c": [5]}, {**LOG, "matrix-c": [5]}, {"log_faults": 1}, id="an append happened twice"),
        pytest.param({"matrix-a": [1, 3, 4]}, {"matrix-a": [1, 3, 4]}, {"log_faults": 2}, id="an append got lost"),
    ],
)
def test_the_checker_counts_what_is_wrong(
    log: Mapping[str, Sequence[int]], effects: Mapping[str, Sequence[int]], wrong: Mapping[str, int]
) -> None:
    summary, _ = compare(log, effects, 5)
    assert {fault: summary[fault] for fault in FAULTS if summary[fault]} == wrong


def test_the_page_names_every_row() -> None:
    page = (DOCS / "faults.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w-]+)` \| (\d) \| (\d+) \|", page)
    pairs = [(str(row.id), cast("Pair", row.values[0])) for row in PAIRS]
    assert sorted(named) == sorted((name, str(pair.brokers), str(pair.faults_at_full_count)) for name, pair in pairs)
