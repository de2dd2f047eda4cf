"""docs/sagas.md is read by people and run by us."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

PAGE = Path(__file__).parents[3] / "docs" / "sagas.md"


async def test_the_page_does_what_it_shows(monkeypatch: Any) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    module = ModuleType("sagas_page")
    monkeypatch.setitem(sys.modules, "sagas_page", module)
    exec(compile("from __future__ import annotations\n" + "\n".join(blocks), str(PAGE), "exec"), vars(module))
    tests = [value for name, value in vars(module).items() if name.startswith("test_")]
    assert tests
    for test in tests:
        await test()
