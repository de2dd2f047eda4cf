"""Running workers beside a block of code, so that neither outlives the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

from headwater.telemetry import logger

_log = logger("service")


@asynccontextmanager
async def supervised(workers: Sequence[Coroutine[Any, Any, None]]) -> AsyncGenerator[None]:
    """Run the workers beside the block. One that fails cancels the block, which then ends with the failure."""
    owner = asyncio.current_task()
    assert owner is not None, "runs inside a task"
    leaving = False

    async def run_all() -> None:
        async with asyncio.TaskGroup() as group:
            for worker in workers:
                group.create_task(worker)

    def failed(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None and not leaving:
            owner.cancel()

    supervisor = asyncio.create_task(run_all())
    supervisor.add_done_callback(failed)
    try:
        yield
    except asyncio.CancelledError:
        if not (supervisor.done() and not supervisor.cancelled() and supervisor.exception() is not None):
            raise
        owner.uncancel()
    finally:
        leaving = True
        supervisor.cancel()
        await asyncio.wait([supervisor])
        for worker in workers:
            # One that never began, because the block was left at once.
            worker.close()
    if not supervisor.cancelled() and (failure := supervisor.exception()) is not None:
        _log.error("worker_failed", error=str(failure), exc_info=failure)
        raise _only_one(failure)


def _only_one(failure: BaseException) -> BaseException:
    """The failure itself, where a group holds but one."""
    inner: Sequence[BaseException] = getattr(failure, "exceptions", ())
    return _only_one(inner[0]) if len(inner) == 1 else failure
