"""The examples of docs/foreign-topics.md run, as a user would run them."""

from __future__ import annotations

from pathlib import Path

from tests.acceptance.testing.test_scheduling_page import run_examples

PAGE = (Path(__file__).parents[3] / "docs" / "foreign-topics.md").read_text(encoding="utf-8")


def test_examples_work(tmp_path: Path) -> None:
    run_examples(PAGE, ["depot.py", "test_depot.py"], tmp_path)
