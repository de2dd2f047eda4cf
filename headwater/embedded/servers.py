"""Both servers at once."""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType
from typing import Self

from headwater.embedded.kafka import EmbeddedKafka
from headwater.embedded.postgres import EmbeddedPostgres


class EmbeddedServers:
    """The servers asked for, started side by side and stopped together; `with` blocks, `async with` does not block the event loop."""

    def __init__(self, *, postgres: bool = True, kafka: bool = True) -> None:
        self.postgres = EmbeddedPostgres() if postgres else None
        self.kafka = EmbeddedKafka() if kafka else None
        self._abandoned = threading.Event()

    def start(self) -> Self:
        """Return once all are ready; if one fails or the wait is interrupted, none is left.

        Raises:
            ConfigurationError, StorageUnavailable, BrokerUnavailable: what the first server to fail said.
        """
        self._abandoned.clear()
        starts = [_Start(server, self._abandoned) for server in self._servers()]
        try:
            for one in starts:
                one.await_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop all. Safe twice, and while they start: one that is still being installed is stopped as soon as it is up."""
        self._abandoned.set()
        for server in self._servers():
            server.stop()

    @property
    def running(self) -> bool:
        """True while every server asked for lives."""
        return all(server.running for server in self._servers())

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        starting = asyncio.ensure_future(asyncio.to_thread(self.start))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            # The thread cannot be cancelled; stopping what it waits for ends it, and then nobody asks how.
            starting.add_done_callback(lambda done: done.cancelled() or done.exception())
            await asyncio.to_thread(self.stop)
            raise

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await asyncio.shield(asyncio.to_thread(self.stop))

    def _servers(self) -> list[EmbeddedPostgres | EmbeddedKafka]:
        return [server for server in (self.postgres, self.kafka) if server is not None]


def start_embedded(*, postgres: bool = True, kafka: bool = True) -> EmbeddedServers:
    """Start the servers asked for, side by side; the caller calls `stop()`, or lets this process end."""
    return EmbeddedServers(postgres=postgres, kafka=kafka).start()


class _Start:
    """A start under way. A daemon thread, so that a process interrupted meanwhile can end; the watchdogs then clean up."""

    def __init__(self, server: EmbeddedPostgres | EmbeddedKafka, abandoned: threading.Event) -> None:
        self._server = server
        self._abandoned = abandoned
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"start-{type(server).__name__}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._server.start()
            if self._abandoned.is_set():
                self._server.stop()
        except BaseException as failure:  # noqa: BLE001 - raised again where it is waited for
            self._failure = failure

    def await_ready(self) -> None:
        self._thread.join()
        if self._failure is not None:
            raise self._failure
