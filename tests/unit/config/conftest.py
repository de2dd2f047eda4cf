"""A folder of its own with a configuration file, and an environment that says nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

Write = Callable[[str | bytes], Path]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory."""
    for name in [name for name in os.environ if name.upper().startswith("HEADWATER_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def write(folder: Path) -> Write:
    """Writes headwater.yaml."""

    def write(content: str | bytes) -> Path:
        path = folder / "headwater.yaml"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write
