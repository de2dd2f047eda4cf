"""Coroutines driven step by step, so that a cancellation can be delivered at each await of a call."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from enum import StrEnum
from pathlib import PurePath
from typing import Any, Final, TypeVar, cast

Result = TypeVar("Result")

_PATH_PARTS_SHOWN: Final = 2
_TELLS_NOTHING: Final = "contextlib.py"


class Moment(StrEnum):
    """When, at an await, the cancellation comes."""

    WAITING = "while it waits"
    """As soon as there is something to wait for."""
    ANSWERED = "with the answer there"
    """What it waited for has come, and the task has not run since: the answer is lost."""
    SENT = "while a statement is on its way"
    """In the middle of waiting, when somebody, perhaps a task of its own, has sent a statement; see `Stepper.cancel_one`."""


class Stepper:
    """Counts the awaits of the coroutines it watches, and cancels the task that makes a given one.

    An await counts when the task gives the event loop a turn; one that has its answer at once does not.
    """

    def __init__(self, *, cancel_at: int | None = None, moment: Moment = Moment.WAITING) -> None:
        """Count only, or cancel at the await of this number, counted from 1 over all watched coroutines."""
        self._cancel_at, self._moment = cancel_at, moment
        self.awaits: list[str] = []
        """Where each await stood, in order."""
        self.cancelled: asyncio.Task[Any] | None = None
        """The task that was cancelled."""
        self._watched: list[asyncio.Task[Any]] = []

    async def watch(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """The coroutine's own result, with its awaits counted; the task that runs this is the one to be cancelled."""
        task = asyncio.current_task()
        assert task is not None
        self._watched.append(task)
        return await self._drive(coroutine)

    def cancel_one(self, number: int) -> None:
        """Cancel one of the tasks that still run, another one for another number; the outermost only where it is alone."""
        running = [task for task in self._watched if not task.done()]
        if self.cancelled is None and (choices := running[1:] or running):
            self.cancelled = choices[number % len(choices)]
            self.cancelled.cancel()

    @types.coroutine
    def _drive(self, coroutine: Coroutine[Any, Any, Result]) -> Generator[Any, None, Result]:
        error: BaseException | None = None
        try:
            while True:
                try:
                    awaited = coroutine.send(None) if error is None else coroutine.throw(error)
                except StopIteration as finished:
                    return cast("Result", finished.value)
                error = None
                self._reached(coroutine, awaited)
                try:
                    yield awaited
                except BaseException as thrown:  # noqa: BLE001 - handed to the coroutine, whose it is
                    error = thrown
        finally:
            coroutine.close()

    def _reached(self, coroutine: Coroutine[Any, Any, Any], awaited: asyncio.Future[Any] | None) -> None:
        self.awaits.append(_innermost(coroutine))
        if len(self.awaits) != self._cancel_at:
            return
        task = self.cancelled = asyncio.current_task()
        assert task is not None
        if self._moment is Moment.WAITING or awaited is None:
            task.cancel()
        else:
            # Ahead of the task's own wake-up, which is added when it gets to see what it waits for.
            awaited.add_done_callback(lambda _: task.cancel())


def _innermost(coroutine: Any) -> str:
    """`file:line function` of the await farthest in, as far as Python lets one look."""
    place = "an await"
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None) or getattr(coroutine, "ag_frame", None)
        if frame is not None and not frame.f_code.co_filename.endswith(_TELLS_NOTHING):
            file = "/".join(PurePath(frame.f_code.co_filename).parts[-_PATH_PARTS_SHOWN:])
            place = f"{file}:{frame.f_lineno} {frame.f_code.co_name}"
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None) or getattr(coroutine, "ag_await", None)
    return place
