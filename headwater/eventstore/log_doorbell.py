"""The doorbell between processes: who appends wakes who reads, after the commit and beside it.

States: unused (no connection) → connected → connected and listening. One connection of its own both listens and rings, so that a session knows from one
lock whether any *other* session listens; where none does, a ring writes nothing. A ring is a hint: it is never waited for, many count as one,
and what is lost with a connection is found by the readers' polls.

A pooler between here and the server may give each transaction another session, and a LISTEN with it away. Then this process rings, but does not
listen, and says so once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.errors import HeadwaterError, StorageUnavailable
from headwater.eventstore.doorbell import Doorbell
from headwater.postgres import Connection, Database, sql_file, translate_errors
from headwater.telemetry import logger

RING_INTERVAL_SECONDS: Final = 0.002
"""Rings of one process are at least so far apart."""
UNHEARD_INTERVAL_SECONDS: Final = 0.25
"""How long a process that nobody listens to leaves it at that; a new listener polls in short steps meanwhile."""
CHECK_INTERVAL_SECONDS: Final = 30.0
"""How often an idle connection is tried, to notice that its other end has vanished."""
STATEMENT_SECONDS_MAX: Final = 5.0
RECONNECT_SECONDS_MIN: Final = 0.1
RECONNECT_SECONDS_MAX: Final = 5.0
DRAIN_SECONDS_MAX: Final = 1.0
"""How long closing waits for the last ring."""

_PACKAGE: Final = "headwater.eventstore"
_READ_DOORBELL = sql_file(_PACKAGE, "read_doorbell")
_SHOW_LISTENING = sql_file(_PACKAGE, "show_listening")
_RING_DOORBELL = sql_file(_PACKAGE, "ring_doorbell")
_log = logger("eventstore")


class LogDoorbell:
    """Rings in other processes, and passes on what they ring here. `async with`; it connects when it is first needed.

    Args:
        on_ring: called when another process rang, and when rings may have been missed; keep it short.
    """

    def __init__(self, database: Database, *, on_ring: Callable[[], None], clock: Clock = SYSTEM_CLOCK) -> None:
        self._database, self._on_ring, self._clock = database, on_ring, clock
        self._bell = Doorbell(clock)
        self._needed = asyncio.Event()
        self._wants_to_listen = self._is_listening = self._is_ring_due = self._is_closing = False
        self._is_pooled = database.is_pooled_by_transaction
        self._task: asyncio.Task[None] | None = None

    def ring(self) -> None:
        """Wake the readers of other processes soon. Returns at once, whatever the server does."""
        self._is_ring_due = True
        self._needed.set()
        self._bell.ring()

    def listen(self) -> None:
        """Hear other processes from now on."""
        if not self._wants_to_listen:
            self._wants_to_listen = True
            self._needed.set()
            self._bell.ring()

    @property
    def is_listening(self) -> bool:
        """Whether rings of other processes arrive now."""
        return self._is_listening

    async def __aenter__(self) -> Self:
        self._is_closing = False
        self._task = asyncio.create_task(self._run(), name="headwater log doorbell")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        task, self._task = self._task, None
        if task is None:
            return
        self._is_closing = True
        if self._is_ring_due:
            # A script that appends and ends should be heard, too.
            self._bell.ring()
            await asyncio.wait([task], timeout=DRAIN_SECONDS_MAX)
        task.cancel()
        await asyncio.wait([task])

    # -- one connection after the other -------------------------------------------------------------------------------

    async def _run(self) -> None:
        await self._needed.wait()
        pause, was_lost = RECONNECT_SECONDS_MIN, False
        while not (self._is_closing and not self._is_ring_due):
            try:
                connection = await self._connect()
                if was_lost:
                    _log.info("log_doorbell_restored")
                    self._on_ring()
                pause, was_lost = RECONNECT_SECONDS_MIN, False
                await self._serve(connection)
            except Exception as error:  # noqa: BLE001 - a doorbell that fails, however, must not end the service: readers poll
                if not was_lost:
                    _log.warning("log_doorbell_lost", error=str(error), exc_info=None if isinstance(error, HeadwaterError) else error)
                was_lost = True
                await self._clock.sleep(pause)
                pause = min(pause * 2, RECONNECT_SECONDS_MAX)

    async def _connect(self) -> Connection:
        with translate_errors():
            connection = await self._database.connect()
        connection.add_termination_listener(lambda _: self._bell.ring())
        return connection

    async def _serve(self, connection: Connection) -> None:
        try:
            while not (self._is_closing and not self._is_ring_due):
                if self._wants_to_listen and not self._is_listening and not self._is_pooled:
                    await self._begin_listening(connection)
                is_idle = not self._is_ring_due and not await self._bell.wait(CHECK_INTERVAL_SECONDS)
                if connection.is_closed():
                    raise StorageUnavailable("the connection of the log's doorbell was cut")
                if self._is_ring_due or is_idle:
                    await self._clock.sleep(await self._ring(connection))
        finally:
            self._is_listening = False
            connection.terminate()

    async def _ring(self, connection: Connection) -> float:
        """Ring once for all that is due; how long to leave it at that."""
        was_due, self._is_ring_due = self._is_ring_due, False
        try:
            with translate_errors():
                async with asyncio.timeout(STATEMENT_SECONDS_MAX):
                    was_heard = await connection.fetchval(_RING_DOORBELL)
        except BaseException:
            self._is_ring_due = was_due
            raise
        return RING_INTERVAL_SECONDS if was_heard or self._is_closing else UNHEARD_INTERVAL_SECONDS

    async def _begin_listening(self, connection: Connection) -> None:
        with translate_errors():
            async with asyncio.timeout(STATEMENT_SECONDS_MAX):
                facts = await connection.fetchrow(_READ_DOORBELL)
                assert facts is not None, "it returns one row"
                if facts["server_pid"] != connection.get_server_pid():
                    self._is_pooled = True
                    _log.warning(
                        "log_doorbell_unheard",
                        hint="a connection pooler stands between this process and PostgreSQL, so LISTEN cannot be relied on: new events of "
                        "other processes are found by polling, within a second; connect directly to hear of them at once",
                    )
                    return
                await connection.add_listener(facts["channel"], self._heard)
                await connection.fetchval(_SHOW_LISTENING)
        self._is_listening = True
        # Who committed before the lock was taken need not have rung.
        self._on_ring()

    def _heard(self, connection: Connection, server_pid: int, _channel: str, _payload: object) -> None:
        if server_pid != connection.get_server_pid():
            self._on_ring()
