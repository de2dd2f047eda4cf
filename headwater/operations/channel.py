"""How parent and worker process talk: questions and answers, one JSON object a line, over a pair of sockets that both inherit.

The parent asks, the worker answers; a worker that does not answer is stuck, and its parent notices. The other way round a second pipe tells the
worker that its parent is gone: a thread waits for its end, so that it is heard even while the event loop is stuck.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from headwater.clock import blocking_sleep
from headwater.operations.reports import ProvidesReports
from headwater.telemetry import logger

LINE_BYTES_MAX: Final = 16 * 1024 * 1024
"""An answer with all measurements is some kilobytes; this is where a mistake would end."""
_log = logger("operations")


class ChannelClosed(Exception):
    """The other side is gone."""


class Questions:
    """The parent's side: asks one worker."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._count = 0
        self._listening = asyncio.create_task(self._listen(), name="headwater answers")

    @classmethod
    async def over(cls, connected: socket.socket) -> Questions:
        """Ask over this socket."""
        return cls(*await asyncio.open_unix_connection(sock=connected, limit=LINE_BYTES_MAX))

    async def ask(self, what: str, timeout_seconds: float) -> Any:
        """Its answer.

        Raises:
            TimeoutError: it did not answer in time.
            ChannelClosed: it is gone.
        """
        self._count += 1
        number = self._count
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            async with asyncio.timeout(timeout_seconds):
                self._writer.write(_line({"number": number, "ask": what}))
                await self._writer.drain()
                return await answer
        except ConnectionError:
            raise ChannelClosed from None
        finally:
            self._asked.pop(number, None)

    async def close(self) -> None:
        """Ask no more."""
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()

    async def _listen(self) -> None:
        try:
            with suppress(ConnectionError):
                while line := await self._reader.readline():
                    said = json.loads(line)
                    answer = self._asked.get(said["number"])
                    if answer is not None and not answer.done():
                        answer.set_result(said["answer"])
        finally:
            for answer in self._asked.values():
                if not answer.done():
                    answer.set_exception(ChannelClosed())


class Answers:
    """The worker's side."""

    def __init__(self, reports: ProvidesReports) -> None:
        self._reports = reports
        self.state = "starting"
        """`starting`, `running` or `draining`."""

    @asynccontextmanager
    async def given_over(self, inherited: int) -> AsyncGenerator[None]:
        """Answer on this file descriptor while the block runs."""
        reader, writer = await asyncio.open_unix_connection(sock=socket.socket(fileno=inherited), limit=LINE_BYTES_MAX)
        task = asyncio.create_task(self._serve(reader, writer), name="headwater answers")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.TaskGroup() as group:
            with suppress(ConnectionError):
                while line := await reader.readline():
                    # One that takes long must not keep the next from being heard.
                    group.create_task(self._answer(json.loads(line), writer))

    async def _answer(self, question: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        answer: Any = None
        try:
            match question["ask"]:
                case "state":
                    answer = self.state
                case "health":
                    answer = await self._reports.health()
                case "metrics":
                    answer = (text := await self._reports.metrics()) and text.decode()
                case unknown:
                    _log.warning("unknown_question", question=unknown)
        except Exception as error:  # noqa: BLE001 - no answer to one question; the others are still asked
            _log.warning("question_failed", question=question["ask"], error=str(error))
        with suppress(ConnectionError):
            writer.write(_line({"number": question["number"], "answer": answer}))
            await writer.drain()


def end_with_parent(lifeline: int, drain_seconds_max: float) -> None:
    """Have this process drain, and end after that time whatever it does, as soon as the other end of the pipe is closed."""

    def wait() -> None:
        while os.read(lifeline, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        blocking_sleep(drain_seconds_max)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, name="headwater lifeline", daemon=True).start()


def _line(said: dict[str, Any]) -> bytes:
    return json.dumps(said, default=str).encode() + b"\n"
