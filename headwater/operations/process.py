"""One worker process, as its parent holds it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from headwater.operations.channel import ChannelClosed, Questions


class WorkerProcess:
    """Started by `start`; ended by `drain` or `kill`, or by itself."""

    def __init__(self, process: asyncio.subprocess.Process, questions: Questions, lifeline: int) -> None:
        self._process, self._questions, self._lifeline = process, questions, lifeline
        self.state = "starting"
        """What it answered last."""
        self.has_run = False

    @classmethod
    async def start(cls, command: Sequence[str], number: int, environment: Mapping[str, str]) -> WorkerProcess:
        """Start it in a session of its own, so that Ctrl-C reaches its parent alone.

        Args:
            command: gets one more argument, by which the process knows its number and what it inherits: `NUMBER:CHANNEL:LIFELINE`.
        """
        ours, theirs = socket.socketpair()
        lifeline_end, lifeline = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                f"{number}:{theirs.fileno()}:{lifeline_end}",
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), lifeline_end),
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            os.close(lifeline)
            raise
        finally:
            theirs.close()
            os.close(lifeline_end)
        return cls(process, await Questions.over(ours), lifeline)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def look(self, timeout_seconds: float) -> bool:
        """Ask how it is; False when it does not answer in time."""
        try:
            self.state = await self._questions.ask("state", timeout_seconds)
        except (TimeoutError, ChannelClosed):
            return False
        self.has_run = self.has_run or self.state == "running"
        return True

    async def ask(self, what: str, timeout_seconds: float) -> Any:
        """Its answer; None when there is none in time."""
        try:
            return await self._questions.ask(what, timeout_seconds)
        except (TimeoutError, ChannelClosed):
            return None

    async def wait(self) -> int:
        """Its exit status, negative for a signal; what it held is given back."""
        status = await self._process.wait()
        await self._questions.close()
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        return status

    def drain(self) -> None:
        """Tell it to finish what is in hand."""
        self._signal(signal.SIGTERM)

    def tell_where(self) -> None:
        """Have it write the stacks of its threads to standard error, also while its event loop is stuck."""
        self._signal(signal.SIGUSR1)

    def kill(self) -> None:
        """End it and what it started, at once."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(number)


def ending(status: int) -> str:
    """How a process ended, in words."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"
