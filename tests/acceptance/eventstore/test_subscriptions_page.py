"""The examples of docs/subscriptions.md run, as a user would run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = (Path(__file__).parents[3] / "docs" / "subscriptions.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, flags=re.DOTALL)


def run(folder: Path, dsn: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "HEADWATER_POSTGRES": dsn},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_examples_work(tmp_path: Path, postgres_dsn: str) -> None:
    assert [name for name, _ in EXAMPLES] == ["shop.py", "follow.py", "test_batches.py"]
    for name, text in EXAMPLES:
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\npythonpath = .\nfilterwarnings = error\n",
        encoding="utf-8",
    )
    assert run(tmp_path, postgres_dsn, "follow.py").splitlines() == [
        "order-1 1 sku='chai' quantity=2",
        "order-1 2 sku='chai'",
        "sku='tofu' quantity=1",
    ]
    assert "1 passed" in run(tmp_path, postgres_dsn, "-m", "pytest", "-q", "-p", "no:cacheprovider")
