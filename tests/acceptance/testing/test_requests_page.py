"""The examples of docs/requests.md run, as a user would run them."""

from __future__ import annotations

from pathlib import Path

from tests.acceptance.testing.test_scheduling_page import run_examples

PAGE = (Path(__file__).parents[3] / "docs" / "requests.md").read_text(encoding="utf-8")


def test_examples_work(tmp_path: Path) -> None:
    run_examples(PAGE, ["quotes.py", "test_quotes.py"], tmp_path)
