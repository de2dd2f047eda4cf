"""The servers of the matrix, which outlive its rows."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.fault.matrix.beds import Beds


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def beds(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Beds]:
    opened = Beds(tmp_path_factory)
    yield opened
    await opened.close()
