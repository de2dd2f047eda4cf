"""docs/doctor.md and the checks name the same findings, and agree on how bad they can be."""

from __future__ import annotations

import re
from pathlib import Path

from headwater.doctor import FINDING_NAMES, Severity
from tests.unit.doctor.test_checks import CASES

PAGE = Path(__file__).parents[3] / "docs" / "doctor.md"
ROW = re.compile(r"^\| `([a-z-]+)` \| (failure|warning|note)\b.*? \| .+ \| .+ \| .+ \|$", re.MULTILINE)
RANK = [Severity.OK, Severity.NOTE, Severity.WARNING, Severity.FAILURE]


def test_the_page_names_every_finding_once_and_no_other() -> None:
    rows = [name for name, _ in ROW.findall(PAGE.read_text(encoding="utf-8")) if name not in set(Severity)]
    assert sorted(rows) == sorted(FINDING_NAMES)


def test_the_page_says_how_bad_each_can_be() -> None:
    said = dict(ROW.findall(PAGE.read_text(encoding="utf-8")))
    worst: dict[str, Severity] = {}
    for name, _, severities, _ in CASES:
        worst[name] = max([worst.get(name, Severity.OK), *severities], key=RANK.index)
    assert {name: said[name] for name in worst} == {name: severity.value for name, severity in worst.items()}
