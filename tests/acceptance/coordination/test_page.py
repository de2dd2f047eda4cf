"""The examples of docs/coordination.md run, as a user would run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = (Path(__file__).parents[3] / "docs" / "coordination.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"```python\n# (\w+\.py)[^\n]*\n(.*?)```", PAGE, flags=re.DOTALL))


def run(folder: Path, dsn: str, name: str) -> list[str]:
    (folder / name).write_text(EXAMPLES[name], encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", name],
        cwd=folder,
        env={**os.environ, "HEADWATER_POSTGRES": dsn},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if "room" not in line]


def test_examples_work(tmp_path: Path, postgres_dsn: str) -> None:
    assert run(tmp_path, postgres_dsn, "nightly.py") == ["term 1"]
    lines = run(tmp_path, postgres_dsn, "feeds.py")
    assert sorted(lines[:3]) == [f"following {item} under term 1" for item in ("east", "north", "south")]
    assert sorted(lines[3:6]) == [f"gave {item} back" for item in ("east", "north", "south")]
    assert lines[6:] == ["done"]
    assert "following east under term 2" in run(tmp_path, postgres_dsn, "feeds.py")
