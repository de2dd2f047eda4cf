"""The example of docs/deciding.md runs as a user would run it, and prints what the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = (Path(__file__).parents[3] / "docs" / "deciding.md").read_text(encoding="utf-8")


def test_example_prints_what_the_page_says(tmp_path: Path, postgres_dsn: str) -> None:
    ((name, text),) = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / name).write_text(text, encoding="utf-8")
    said = re.search(rf"    \$ python {name}\n((?:    .*\n)+)", PAGE)
    assert said is not None
    done = subprocess.run(
        [sys.executable, "-W", "error", name],
        cwd=tmp_path,
        env={**os.environ, "HEADWATER_POSTGRES": postgres_dsn},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [line.removeprefix("    ") for line in said[1].splitlines()]
