"""A service in several processes: started, looked after, restarted, drained."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.operations.process import WorkerProcess, ending
from headwater.randomness import SYSTEM_RANDOMNESS, Randomness
from headwater.telemetry import logger
from headwater.waiting import first_of

WORKERS_MAX: Final = 256
DUMP_SECONDS: Final = 0.3
"""How long a silent process has to write where it stands, before it is killed."""
_log = logger("operations")


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """Times of a pool, in seconds."""

    look_seconds: float = 1.0
    """How often each process is asked how it is."""
    start_seconds_max: float = 120.0
    """How long a process may take to its first answer: interpreter, imports."""
    silence_seconds_max: float = 60.0
    """A process that has not answered for so long is stuck: it is killed and replaced."""
    drain_seconds_max: float = 45.0
    """What has not ended by then is killed: above the 30 s that a consumer takes at most."""
    restart_seconds_min: float = 0.5
    restart_seconds_max: float = 30.0
    healthy_seconds: float = 60.0
    """A process that ran for so long is replaced with the shortest delay again."""


@dataclass(slots=True)
class Slot:
    """One place in the pool, and who has it now."""

    number: int
    process: WorkerProcess | None = None
    restarts: int = 0
    is_reloading: bool = False
    last_error: str | None = None


class WorkerPool:
    """Keeps as many processes of a command running as it is told to."""

    def __init__(
        self,
        command: Sequence[str],
        count: int,
        *,
        environment: Mapping[str, str],
        instance_id: str | None = None,
        waits_for_changes: bool = False,
        limits: PoolLimits | None = None,
        clock: Clock = SYSTEM_CLOCK,
        randomness: Randomness = SYSTEM_RANDOMNESS,
    ) -> None:
        """Put it together; nothing is started before `run`.

        Args:
            instance_id: what the processes' own begin with; each must differ from the others and stay over restarts.
            waits_for_changes: one that cannot start is left alone until `reload`, instead of ending the pool or being tried again.
        """
        self._command, self._environment, self._instance_id = tuple(command), dict(environment), instance_id
        self._waits_for_changes, self._limits = waits_for_changes, limits or PoolLimits()
        self._clock, self._randomness = clock, randomness
        self.slots = tuple(Slot(number) for number in range(count))
        self._stopping, self._changed = asyncio.Event(), asyncio.Event()
        self._has_run = False
        self._status = 0

    async def run(self, stop: asyncio.Event) -> int:
        """Keep them running until told to stop, then drain all; returns the exit status, which is not 0 when they could not start at all."""
        async with asyncio.TaskGroup() as group:
            told = group.create_task(self._stop_when(stop))
            keepers = [group.create_task(self._keep(slot)) for slot in self.slots]
            await asyncio.wait(keepers)
            told.cancel()
        return self._status

    async def reload(self) -> None:
        """Drain every process, and start it anew."""
        for slot in self.slots:
            if slot.process is not None:
                slot.is_reloading = True
                slot.process.drain()
        self._changed.set()
        self._changed.clear()

    def kill(self) -> None:
        """End all of them at once."""
        self._stopping.set()
        for slot in self.slots:
            if slot.process is not None:
                slot.process.kill()

    async def _stop_when(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._end()

    def _end(self) -> None:
        self._stopping.set()
        for slot in self.slots:
            if slot.process is not None:
                slot.process.drain()

    # -- one of them ---------------------------------------------------------------------------------------------------

    async def _keep(self, slot: Slot) -> None:
        failures = 0
        while not self._stopping.is_set():
            started_at = self._clock.monotonic()
            process = slot.process = await WorkerProcess.start(self._command, slot.number, self._environment_of(slot))
            _log.info("service_worker_started", worker=slot.number, pid=process.pid)
            if self._stopping.is_set():
                # It was being started while the others were told to end.
                process.drain()
            status = await self._look_after(slot, process)
            slot.process = None
            if self._stopping.is_set():
                return
            if slot.is_reloading:
                slot.is_reloading, failures = False, 0
                continue
            if not self._has_run and not process.has_run and status in (1, 2):
                # Nothing of this ever ran: whoever started it reads the error and mends it.
                if not self._waits_for_changes:
                    self._status = status
                    self._end()
                    return
                slot.last_error = ending(status)
                _log.error(
                    "service_worker_waits",
                    worker=slot.number,
                    error=slot.last_error,
                    what_to_do="mend it and save; it is then started again",
                )
                await first_of(self._stopping.wait(), self._changed.wait())
                continue
            failures = 1 if self._clock.monotonic() - started_at > self._limits.healthy_seconds else failures + 1
            await self._pause_before_restart(slot, process, status, failures)

    def _environment_of(self, slot: Slot) -> dict[str, str]:
        if self._instance_id is None:
            return self._environment
        return self._environment | {"HEADWATER_INSTANCE_ID": f"{self._instance_id}-{slot.number}"}

    async def _pause_before_restart(self, slot: Slot, process: WorkerProcess, status: int, failures: int) -> None:
        slot.restarts += 1
        slot.last_error = ending(status)
        limits = self._limits
        delay = min(limits.restart_seconds_min * 2.0 ** min(failures - 1, 20), limits.restart_seconds_max)
        delay *= self._randomness.uniform(0.75, 1.0)
        _log.error(
            "service_worker_died",
            worker=slot.number,
            pid=process.pid,
            error=slot.last_error,
            restarts=slot.restarts,
            restart_in_seconds=round(delay, 3),
        )
        await first_of(self._clock.sleep(delay), self._stopping.wait(), self._changed.wait())

    async def _look_after(self, slot: Slot, process: WorkerProcess) -> int:
        """Until it has ended; one that falls silent, or does not end when told to, is killed."""
        ended = asyncio.create_task(process.wait())
        answered_at, silence_seconds_max = self._clock.monotonic(), self._limits.start_seconds_max
        told_at: float | None = None
        while not ended.done():
            await first_of(asyncio.shield(ended), self._clock.sleep(self._limits.look_seconds))
            if ended.done():
                break
            now = self._clock.monotonic()
            if self._stopping.is_set() or slot.is_reloading:
                told_at = now if told_at is None else told_at
                if now - told_at > self._limits.drain_seconds_max:
                    _log.error("service_worker_cut_off", worker=slot.number, pid=process.pid, after_seconds=self._limits.drain_seconds_max)
                    process.kill()
                continue
            if await process.look(self._limits.look_seconds):
                answered_at, silence_seconds_max = self._clock.monotonic(), self._limits.silence_seconds_max
                self._has_run = self._has_run or process.has_run
            elif self._clock.monotonic() - answered_at > silence_seconds_max and not ended.done():
                await self._replace_silent(slot, process, silence_seconds_max)
        return await ended

    async def _replace_silent(self, slot: Slot, process: WorkerProcess, silence_seconds: float) -> None:
        _log.error(
            "service_worker_silent",
            worker=slot.number,
            pid=process.pid,
            after_seconds=silence_seconds,
            what_to_do="a handler blocks the event loop, or the process was stopped; its stack follows, then it is killed and replaced",
        )
        process.tell_where()
        await self._clock.sleep(DUMP_SECONDS)
        process.kill()
