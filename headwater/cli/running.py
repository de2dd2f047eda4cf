"""Running asynchronous commands: the fast loop where there is one, and signals that ask for an end rather than tear."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

Result = TypeVar("Result")
COLLECTOR_THRESHOLDS: Final = (20_000, 20, 20)
"""Python looks for cycles among every 700 new objects by default, which are a few dozen messages here; it cost a consumer a fifth of its time."""


def run_async(main: Coroutine[Any, Any, Result]) -> Result:
    """Run to the end on uvloop, or on asyncio where uvloop does not run."""
    if sys.platform == "win32":
        return asyncio.run(main)
    import uvloop

    return uvloop.run(main)


def calm_collector() -> None:
    """Look for cycles more rarely, and never among what was imported: for processes that are Headwater's own, never for an application's."""
    gc.freeze()
    gc.set_threshold(*COLLECTOR_THRESHOLDS)


def stop_event(*, at_once: Callable[[], None] | None = None) -> asyncio.Event:
    """An event that SIGINT or SIGTERM sets; a second signal ends the process at once, and with `at_once` what it started."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def ask(signal_number: signal.Signals) -> None:
        if stop.is_set():
            if at_once is not None:
                at_once()
            signal.signal(signal_number, signal.SIG_DFL)
            signal.raise_signal(signal_number)
        stop.set()

    for signal_number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signal_number, ask, signal_number)
    return stop
