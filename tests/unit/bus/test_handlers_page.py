"""docs/handlers.md is read by people and run by us."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

PAGE = Path(__file__).parents[3] / "docs" / "handlers.md"


async def test_the_page_does_what_it_shows(monkeypatch: Any) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    module = ModuleType("handlers_page")
    monkeypatch.setitem(sys.modules, "handlers_page", module)
    exec(compile("from __future__ import annotations\n" + "\n".join(blocks), str(PAGE), "exec"), vars(module))
    await vars(module)["test_shop"]()
