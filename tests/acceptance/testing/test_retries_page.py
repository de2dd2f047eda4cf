"""The examples of docs/retries.md and docs/lanes.md run, as a user would run them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parents[3] / "docs"

TROUBLE = """
import trouble
from payments import service
from headwater.testing import memory_service

async def test_it_is_told(capsys) -> None:
    async with memory_service(service) as memory:
        await service.store.append("refund-1", [trouble.RefundAsked(order_id="1")], expected_version=0)
        await memory.settle(allow_dead_letters=True)
    assert "refund gave up on RefundAsked of refund-1: 1 was never paid" in capsys.readouterr().out
"""
NOTICES = """
from notices import NoticeSent, OrderPlaced, service
from headwater.testing import memory_service

async def test_it_is_sent() -> None:
    async with memory_service(service) as memory:
        await service.store.append("order-1", [OrderPlaced(order_id="1")], expected_version=0)
        await memory.settle()
        assert memory.stream("notice-1") == (NoticeSent(order_id="1"),)
"""


def test_examples_work(tmp_path: Path) -> None:
    pages = "".join((DOCS / page).read_text(encoding="utf-8") for page in ("retries.md", "lanes.md"))
    examples = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", pages, flags=re.DOTALL)
    assert [name for name, _ in examples] == ["payments.py", "test_payments.py", "trouble.py", "notices.py"]
    for name, text in [*examples, ("test_trouble.py", TROUBLE), ("test_notices.py", NOTICES)]:
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\npythonpath = .\nfilterwarnings = error\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
