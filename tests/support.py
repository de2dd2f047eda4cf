"""Helpers that are no fixtures: counts of seeded runs, and the evidence they leave."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from headwater.testing import eventually

__all__ = ["FULL", "SeededRuns", "eventually", "full_count", "run_page", "write_evidence"]

FULL = os.environ.get("HEADWATER_TEST_FULL", "") not in ("", "0")
"""Whether the seeded tests run at full count."""
EVIDENCE = Path(__file__).parent.parent / "docs" / "evidence"


DOCS = EVIDENCE.parent


async def run_page(name: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run the Python blocks of a page of docs/ as one module, then the tests among them; returns how many tests there were."""
    page = DOCS / name
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    module = ModuleType(f"{page.stem}_page")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile("from __future__ import annotations\n" + "\n".join(blocks), str(page), "exec"), vars(module))
    tests = [value for name, value in vars(module).items() if name.startswith("test_")]
    for test in tests:
        await test()
    return len(tests)


def full_count(default: int, full: int) -> int:
    """How often to run: a little on every change, in full when HEADWATER_TEST_FULL=1."""
    return full if FULL else default


def write_evidence(name: str, summary: Mapping[str, Any]) -> None:
    """Keep the summary in docs/evidence/<name>.json; only at full count, so that everyday runs change no file."""
    if not FULL:
        return
    EVIDENCE.mkdir(parents=True, exist_ok=True)
    written_at = datetime.now(UTC).isoformat(timespec="seconds")
    text = json.dumps({**_read(name), **summary, "written_at": written_at, "machine": _machine()}, indent=1)
    partial = EVIDENCE / f".{name}.json.partial"
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(EVIDENCE / f"{name}.json")


class SeededRuns:
    """The seeds of one test; at full count those that the evidence already holds are passed over, so that a run can be taken up again.

    for seed in (runs := SeededRuns("tail", default=5, full=100)):
        runs.record(seed, {"events": await run(seed)})
    """

    def __init__(self, name: str, *, default: int, full: int) -> None:
        self.name, self.count = name, full_count(default, full)
        self.results: dict[str, Any] = dict(_read(name).get("seeds", {})) if FULL else {}

    def __iter__(self) -> Iterator[int]:
        return iter([seed for seed in range(1, self.count + 1) if str(seed) not in self.results])

    def record(self, seed: int, result: Mapping[str, Any]) -> None:
        """Keep what a seed gave, at once."""
        self.results[str(seed)] = dict(result)
        write_evidence(self.name, {"seeds": self.results})

    def total(self, field: str) -> Any:
        """The sum of one field over all seeds."""
        return sum(result[field] for result in self.results.values())


def _read(name: str) -> dict[str, Any]:
    file = EVIDENCE / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def _machine() -> dict[str, Any]:
    return {"cores": os.cpu_count(), "system": platform.system(), "python": platform.python_version()}
