"""Which bed a row gets."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.fault.matrix.bed import Bed
from tests.fault.matrix.checking import Checker
from tests.support import full_count

ROWS_MAX = full_count(100, 4)
"""So many rows share a bed: at the end everything that happened there is read once more, and must fit into memory."""


class Beds:
    """One bed at a time: all rows for one broker share one, all for three another. A row that fails spoils it for the others."""

    def __init__(self, folder: pytest.TempPathFactory) -> None:
        self._folder, self._stack = folder, AsyncExitStack()
        self._checker: Checker | None = None
        self.rows: dict[str, int] = {}
        """The events of each row that this bed is through with."""

    async def get(self, brokers: int) -> Checker:
        kept = self._checker
        if kept is None or kept.bed.is_spoilt or kept.bed.broker_count != brokers or len(self.rows) >= ROWS_MAX:
            await self.close()
            bed = await self._stack.enter_async_context(Bed(brokers, Path(self._folder.mktemp("matrix"))))
            self._checker = kept = Checker(bed)
        return kept

    async def close(self) -> None:
        """Look at everything once more, and end all processes."""
        checker, self._checker, rows, self.rows = self._checker, None, self.rows, {}
        try:
            if checker is not None and not checker.bed.is_spoilt:
                await checker.check_again(rows)
        finally:
            await self._stack.aclose()
