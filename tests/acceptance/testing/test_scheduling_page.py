"""The examples of docs/scheduling.md run, as a user would run them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PAGE = (Path(__file__).parents[3] / "docs" / "scheduling.md").read_text(encoding="utf-8")


def run_examples(page: str, names: list[str], folder: Path) -> None:
    """Write a page's examples into files, and run those that are tests."""
    examples = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", page, flags=re.DOTALL)
    assert [name for name, _ in examples] == names
    for name, text in examples:
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\npythonpath = .\nfilterwarnings = error\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_examples_work(tmp_path: Path) -> None:
    run_examples(PAGE, ["shop.py", "test_shop.py"], tmp_path)
