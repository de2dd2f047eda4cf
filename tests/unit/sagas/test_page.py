"""docs/sagas.md is read by people and run by us."""

from __future__ import annotations

import pytest

from tests.support import run_page


async def test_the_page_does_what_it_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await run_page("sagas.md", monkeypatch)
