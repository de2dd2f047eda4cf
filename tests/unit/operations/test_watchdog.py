"""Something blocks the event loop: the log says for how long, and where."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from structlog.testing import capture_logs

from headwater.operations import watched_loop
from headwater.testing import eventually

LIMIT = 0.2


def compute_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)


async def test_a_blocked_loop_is_told_of_once_each_time_with_its_stack() -> None:
    with capture_logs() as facts:
        with watched_loop(blocked_seconds_max=LIMIT):
            for times in (1, 2):
                compute_until(lambda times=times: len(blocked(facts)) == times)
                await eventually(lambda times=times: len([fact for fact in facts if fact["event"] == "event_loop_goes_on"]) == times)
    assert len(facts) == 4
    for fact in blocked(facts):
        assert fact["log_level"] == "error"
        assert fact["seconds"] >= LIMIT
        assert any("compute_until" in line for line in fact["stack"])


def blocked(facts: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [fact for fact in facts if fact["event"] == "event_loop_blocked"]


async def test_a_loop_that_turns_is_not_told_of() -> None:
    with capture_logs() as facts, watched_loop(blocked_seconds_max=5.0):
        await asyncio.sleep(0)
    assert facts == []
