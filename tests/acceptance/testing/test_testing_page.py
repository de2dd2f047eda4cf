"""The examples of docs/testing.md run, as a user would run them: files in a folder, and pytest."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[3] / "docs" / "testing.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, flags=re.DOTALL)


def test_examples_pass(tmp_path: Path, postgres_server: str) -> None:
    names = [
        "shop.py",
        "test_shop.py",
        "test_shop_stories.py",
        "test_shop_chaos.py",
        "test_shop_crashes.py",
        "test_reservations.py",
        "test_fixtures.py",
        "test_crash_points.py",
    ]
    assert [name for name, _ in EXAMPLES] == names
    for name, text in EXAMPLES:
        (tmp_path / name).write_text(text, encoding="utf-8")
    settings = [
        "[pytest]",
        "asyncio_mode = auto",
        "asyncio_default_fixture_loop_scope = function",
        "filterwarnings = error",
        "pythonpath = .",
    ]
    (tmp_path / "pytest.ini").write_text("\n".join(settings), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env={**os.environ, "HEADWATER_POSTGRES": postgres_server},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "20 passed" in done.stdout


def test_plugin_imports_nothing_heavy() -> None:
    """Pytest loads it in every project that has Headwater installed, whatever that project tests."""
    code = "import sys, headwater.testing.pytest_plugin; print(*sorted(m for m in sys.modules if m.split('.')[0] in sys.argv[1].split()))"
    heavy = "asyncpg aiokafka sqlalchemy structlog typer rich pydantic pydantic_core hypothesis"
    done = subprocess.run([sys.executable, "-c", code, heavy], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_lazy_doors_open_every_name() -> None:
    import headwater
    import headwater.testing

    for door in (headwater, headwater.testing):
        assert all(getattr(door, name) is not None for name in door.__all__)
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            _ = door.nothing
