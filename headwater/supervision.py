"""Running workers beside a block of code, so that neither outlives the other, and so that none stops in silence.

A worker that ends without being told to, by an error or without one, or that makes no progress for too long, is told of as an error and started
anew, after a delay that grows. Only an error that a new start cannot mend (wrong use, a refused definition) ends the block.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.errors import HeadwaterError
from headwater.metrics import NO_METRICS, WORKER_RESTARTS, Metrics
from headwater.randomness import SYSTEM_RANDOMNESS, Randomness
from headwater.telemetry import logger

STALL_SECONDS_MAX: Final = 90.0
"""No progress for so long is a stall: above the 30 s that a handler may take, and the 30 s that joining a group may take."""
LOOK_SECONDS: Final = 1.0
"""How often a worker's progress is looked at."""
RESTART_SECONDS_MIN: Final = 0.2
RESTART_SECONDS_MAX: Final = 30.0
"""The delay before a new start: doubled with each, between these."""
FRAMES_SHOWN: Final = 3
HEALTHY_SECONDS: Final = 60.0
"""A worker that ran for so long begins with the shortest delay again."""

_log = logger("service")


class Runs(Protocol):
    """Something that works until it is cancelled, and then finishes what is in hand."""

    async def run(self) -> None: ...


@runtime_checkable
class Watched(Protocol):
    """A worker that shows its progress, so that a stall is noticed."""

    @property
    def progressed_at(self) -> float:
        """When it last got on, in the clock's monotonic seconds."""
        ...

    def waits_in(self) -> str:
        """Where its work is now, for whoever must mend a stall."""
        ...

    async def abandon(self) -> None:
        """Let go of everything that a successor needs, without waiting for what is in hand."""
        ...


@dataclass(frozen=True, slots=True)
class Worker:
    """What is to run: made anew for every start."""

    name: str
    make: Callable[[], Runs]


@dataclass(slots=True)
class WorkerState:
    """How a worker is."""

    name: str
    state: str = "running"
    """`running`, or `restarting` (it ended or stalled, and is started again soon)."""
    restarts: int = 0
    last_error: str | None = None


class Supervisor:
    """Keeps workers running until cancelled.

    Raises:
        HeadwaterError: of a worker, where starting it again would not help.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        *,
        stall_seconds_max: float = STALL_SECONDS_MAX,
        metrics: Metrics = NO_METRICS,
        clock: Clock = SYSTEM_CLOCK,
        randomness: Randomness = SYSTEM_RANDOMNESS,
    ) -> None:
        self._workers, self._stall_seconds_max, self._clock, self._randomness = tuple(workers), stall_seconds_max, clock, randomness
        self._metrics = metrics
        self.states = tuple(WorkerState(worker.name) for worker in workers)

    async def run(self) -> None:
        """Run every worker, each as often as it takes."""
        async with asyncio.TaskGroup() as group:
            for worker, state in zip(self._workers, self.states, strict=True):
                group.create_task(self._keep(worker, state), name=f"headwater keeps {worker.name}")

    async def _keep(self, worker: Worker, state: WorkerState) -> None:
        failures = 0
        while True:
            started_at = self._clock.monotonic()
            failure = await self._run_once(worker)
            if isinstance(failure, HeadwaterError) and not failure.retryable and not isinstance(failure, WorkerStalled):
                raise failure
            failures = 1 if self._clock.monotonic() - started_at > HEALTHY_SECONDS else failures + 1
            delay = min(RESTART_SECONDS_MIN * 2.0 ** min(failures - 1, 20), RESTART_SECONDS_MAX) * self._randomness.uniform(0.75, 1.0)
            state.state, state.last_error = "restarting", f"{type(failure).__name__}: {failure}"
            state.restarts += 1
            self._metrics.add(WORKER_RESTARTS, 1, worker.name)
            _log.error(
                "worker_stalled" if isinstance(failure, WorkerStalled) else "worker_ended",
                worker=worker.name,
                error=state.last_error,
                restart_in_seconds=round(delay, 3),
                restarts=state.restarts,
                exc_info=None if isinstance(failure, HeadwaterError) else failure,
            )
            await self._clock.sleep(delay)
            state.state = "running"

    async def _run_once(self, worker: Worker) -> Exception:
        """Run it until it ends or stalls; says how."""
        runs = worker.make()
        task = asyncio.create_task(runs.run(), name=f"headwater {worker.name}")
        try:
            if isinstance(runs, Watched):
                if stall := await self._watch(runs, task):
                    await self._abandon(worker, runs, task)
                    return stall
            else:
                await asyncio.wait({task})
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait({task})
            # How it ended while it was told to end is nobody's concern.
            with suppress(BaseException):
                task.result()
            raise
        return _how_it_ended(task)

    async def _watch(self, watched: Watched, task: asyncio.Task[None]) -> WorkerStalled | None:
        """Wait until it ends, or has made no progress for too long."""
        while not task.done():
            pause = asyncio.ensure_future(self._clock.sleep(LOOK_SECONDS))
            try:
                await asyncio.wait({task, pause}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                pause.cancel()
            silent_seconds = self._clock.monotonic() - watched.progressed_at
            if not task.done() and silent_seconds > self._stall_seconds_max:
                return WorkerStalled(f"it made no progress for {silent_seconds:.0f} s; {watched.waits_in()}")
        return None

    async def _abandon(self, worker: Worker, watched: Watched, task: asyncio.Task[None]) -> None:
        """Leave it behind: its epochs are raised by its successor, so whatever it still does cannot be committed."""
        try:
            await watched.abandon()
        except Exception as error:  # noqa: BLE001 - a successor is needed all the same
            _log.warning("abandoning_failed", worker=worker.name, error=str(error))
        task.cancel()
        _left_behind.add(task)
        task.add_done_callback(_forget)


class WorkerStalled(HeadwaterError):
    """A worker made no progress for too long and was replaced; whoever wrote what it was waiting for mends that."""

    retryable = True


class WorkerEnded(HeadwaterError):
    """A worker's task ended though nobody told it to; it is started again."""

    retryable = True


_left_behind: Final[set[asyncio.Task[None]]] = set()
"""Tasks that did not end when they were told to; kept so that their ends are not lost in the loop."""


def _forget(task: asyncio.Task[None]) -> None:
    _left_behind.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.info("abandoned_worker_ended", error=str(error))


def _how_it_ended(task: asyncio.Task[None]) -> Exception:
    if task.cancelled():
        return WorkerEnded("its task was cancelled from inside")
    failure = task.exception()
    if failure is None:
        return WorkerEnded("its task ended though nobody told it to")
    only = only_one(failure)
    if not isinstance(only, Exception):
        raise only
    return only


def where(task: asyncio.Task[Any]) -> str:
    """Where a task waits: its innermost frames, the deepest first."""
    frames: list[str] = []
    awaited: object = task.get_coro()
    while awaited is not None:
        if (frame := _part(awaited, "frame")) is not None:
            frames.append(f"{frame.f_code.co_qualname} ({Path(frame.f_code.co_filename).name}:{frame.f_lineno})")
        awaited = _part(awaited, "await")
    return f"it waits in {', called from '.join(frames[: -FRAMES_SHOWN - 1 : -1])}" if frames else "nobody knows where it waits"


def _part(awaited: object, name: str) -> Any:
    """The `frame` or the `await` of a coroutine or an async generator."""
    return next((part for kind in ("cr", "ag") if (part := getattr(awaited, f"{kind}_{name}", None)) is not None), None)


@asynccontextmanager
async def supervised(supervisor: Runs) -> AsyncGenerator[None]:
    """Run workers beside the block. A failure of theirs cancels the block, which then ends with it."""
    owner = asyncio.current_task()
    assert owner is not None, "runs inside a task"
    leaving = False

    def failed(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None and not leaving:
            owner.cancel()

    running = asyncio.create_task(supervisor.run())
    running.add_done_callback(failed)
    try:
        yield
    except asyncio.CancelledError:
        if not (running.done() and not running.cancelled() and running.exception() is not None):
            raise
        owner.uncancel()
    finally:
        leaving = True
        running.cancel()
        await asyncio.wait([running])
    if not running.cancelled() and (failure := running.exception()) is not None:
        _log.error("worker_failed", error=str(failure), exc_info=failure)
        raise only_one(failure)


def only_one(failure: BaseException) -> BaseException:
    """The failure itself, where a group holds but one."""
    inner: Sequence[BaseException] = getattr(failure, "exceptions", ())
    return only_one(inner[0]) if len(inner) == 1 else failure
