"""The event loop of every process here."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

from headwater.cli.running import calm_collector

Answer = TypeVar("Answer")


def run_loop(work: Coroutine[Any, Any, Answer]) -> Answer:
    """Run on uvloop where there is one, and with a calm garbage collector, as `headwater run` does; all systems of a comparison alike."""
    calm_collector()
    if sys.platform == "win32":
        return asyncio.run(work)
    import uvloop

    return uvloop.run(work)
