"""Noticing that Python files changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

from headwater.errors import UsageError


async def python_changes(folder: Path, stop: asyncio.Event) -> AsyncGenerator[list[str]]:
    """The Python files below the folder that changed, each time some did, until told to stop.

    Raises:
        UsageError: watchfiles is not installed.
    """
    try:
        from watchfiles import PythonFilter, awatch  # pyright: ignore[reportUnknownVariableType] - its stop event may be anyio's
    except ModuleNotFoundError:
        raise UsageError("--reload needs the library watchfiles; install headwater[reload]") from None
    async for changes in awatch(folder, watch_filter=PythonFilter(), stop_event=stop):
        yield sorted({str(Path(path).relative_to(folder)) for _, path in changes})
