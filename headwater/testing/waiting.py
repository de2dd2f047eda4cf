"""Waiting for a condition instead of a time."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar, overload

from headwater.clock import SYSTEM_CLOCK, Clock

WAIT_SECONDS_DEFAULT: Final = 10.0
POLL_INTERVAL_SECONDS: Final = 0.01
POLL_INTERVAL_SECONDS_MAX: Final = 0.1

Answer = TypeVar("Answer")


@overload
async def eventually(condition: Callable[[], Awaitable[Answer]], timeout: float = ..., *, clock: Clock = ...) -> Answer: ...
@overload
async def eventually(condition: Callable[[], Answer], timeout: float = ..., *, clock: Clock = ...) -> Answer: ...
async def eventually(condition: Callable[[], object], timeout: float = WAIT_SECONDS_DEFAULT, *, clock: Clock = SYSTEM_CLOCK) -> object:
    """The first true answer of the condition; asks again with growing pauses.

    An `AssertionError` counts as a false answer, so the condition may assert.

    Args:
        condition: a function, plain or async.
        timeout: seconds to wait.
        clock: whose seconds.

    Raises:
        AssertionError: no true answer in time; it says the last one.
    """
    deadline = clock.monotonic() + timeout
    pause = POLL_INTERVAL_SECONDS
    while True:
        failure: AssertionError | None = None
        answer: object = None
        try:
            answer = condition()
            if inspect.isawaitable(answer):
                answer = await answer
            if answer:
                return answer
        except AssertionError as error:
            failure = error
        if clock.monotonic() >= deadline:
            raise AssertionError(f"not so within {timeout} s; the last answer was {failure or answer!r}") from failure
        await clock.sleep(pause)
        pause = min(pause * 1.5, POLL_INTERVAL_SECONDS_MAX)
