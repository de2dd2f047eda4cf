"""Keeps read models up to date from the service's own log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.errors import HeadwaterError, LogDiverged, ProjectionFailed, StorageError, UsageError
from headwater.eventstore import READ_BATCH_SIZE, EventStore, LogIdentity, LogTail, TailRead
from headwater.messages import EventRegistry
from headwater.postgres import Connection, Database
from headwater.projections.applying import OutdatedPlan, apply_batch
from headwater.projections.definition import LIVE, AnyProjection, ProjectionDefinition, definition_of
from headwater.projections.fold import failed
from headwater.projections.postgres import OwnSession, read_version, register, resume_live, stop_projection, try_lock_version
from headwater.projections.values import ProjectionVersion
from headwater.telemetry import logger

ATTEMPTS_MAX: Final = 5
"""How often an event is tried before its projection stops."""
RETRY_PAUSE_SECONDS_MIN: Final = 0.05
RETRY_PAUSE_SECONDS_MAX: Final = 2.0
BUSY_PAUSE_SECONDS: Final = 0.01
"""How long to leave a projection to another process that is working on it."""
STOPPED_POLL_SECONDS: Final = 1.0
"""How often a stopped projection looks whether it was resumed or rebuilt."""

_log = logger("projections")


async def register_projections(
    database: Database, registry: EventRegistry, projections: Sequence[AnyProjection]
) -> tuple[ProjectionDefinition, ...]:
    """Make what these projections need on the database, where it is missing; repeating it does nothing.

    Raises:
        UsageError: a projection takes no events, two have one name, or the SQL of its tables is refused.
    """
    definitions = check_projections(registry, projections)
    for definition in definitions:
        async with database.transaction() as connection:
            await register(connection, definition)
    return definitions


def check_projections(registry: EventRegistry, projections: Sequence[AnyProjection]) -> tuple[ProjectionDefinition, ...]:
    """The definitions of these projections, their events known to the registry."""
    definitions = tuple(definition_of(projection) for projection in projections)
    by_name: dict[str, ProjectionDefinition] = {}
    for definition in definitions:
        if (other := by_name.setdefault(definition.name, definition)) is not definition:
            raise UsageError(
                f"two projections are named {definition.name}: {other.projection_class} and {definition.projection_class}; rename one"
            )
        for event_class in definition.event_classes:
            registry.register(event_class)
    return definitions


class ProjectionRunner:
    """Runs projections until cancelled; several processes may run the same ones, for each batch is applied under the checkpoint's row lock.

    What can be waited out (a server away, another process at work) is waited out. A projection that raises `ATTEMPTS_MAX` times at an event
    stops there with an alarm, its read model as it was before the event; the others go on. It tries again when its process starts
    anew, when `resume_projection` says so, or when a rebuild has replaced it.
    """

    def __init__(
        self,
        database: Database,
        store: EventStore,
        registry: EventRegistry,
        projections: Sequence[AnyProjection],
        *,
        tail: LogTail | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Put it together; nothing happens before `run`. `tail` is the process's own, where others read the log as well."""
        self._database, self._store, self._registry, self._projections, self._clock = database, store, registry, tuple(projections), clock
        self._tail, self._owns_tail = (LogTail(store, clock=clock), True) if tail is None else (tail, False)

    def wake(self) -> None:
        """Ring the doorbell: something was appended. A hint; polling is the net beneath it."""
        self._tail.wake()

    async def run(self) -> None:
        """Follow the log until cancelled.

        Raises:
            UsageError: a projection's definition or tables are refused; nothing has been started.
        """
        definitions = await self._register()
        try:
            async with asyncio.TaskGroup() as group:
                for definition in definitions:
                    worker = _Worker(definition, self._database, self._store, self._registry, self._tail, self._clock)
                    group.create_task(worker.run(), name=f"headwater projection: {definition.name}")
        finally:
            if self._owns_tail:
                await self._tail.close()

    async def _register(self) -> tuple[ProjectionDefinition, ...]:
        pause = RETRY_PAUSE_SECONDS_MIN
        while True:
            try:
                return await register_projections(self._database, self._registry, self._projections)
            except HeadwaterError as error:
                if not error.retryable:
                    raise
                _log.warning("projections_waiting", error=str(error), pause_seconds=pause)
                await self._clock.sleep(pause)
                pause = min(pause * 2, RETRY_PAUSE_SECONDS_MAX)


class _Worker:
    """Keeps one projection up to date."""

    def __init__(
        self, definition: ProjectionDefinition, database: Database, store: EventStore, registry: EventRegistry, tail: LogTail, clock: Clock
    ) -> None:
        self._definition, self._database, self._store, self._registry = definition, database, store, registry
        self._tail, self._clock = tail, clock
        self._own = OwnSession(database) if definition.is_sql else None
        self._identity: LogIdentity | None = None
        self._version: ProjectionVersion | None = None
        self._generation = 0
        self._batch_size = READ_BATCH_SIZE
        self._attempts = 0
        self._is_stopped = False
        self._log = _log.bind(projection=definition.name)

    async def run(self) -> None:
        try:
            await self._rounds()
        finally:
            if self._own is not None:
                await self._own.close()

    async def _rounds(self) -> None:
        pause = RETRY_PAUSE_SECONDS_MIN
        while True:
            try:
                if self._version is None:
                    await self._begin(is_first=self._identity is None)
                elif self._is_stopped:
                    await self._look_for_resumption()
                else:
                    await self._advance(self._version)
                pause = RETRY_PAUSE_SECONDS_MIN
            except OutdatedPlan:
                # Tables were altered by hand. asyncpg has dropped its plans; the transaction is repeated with new ones.
                continue
            except HeadwaterError as error:
                if not isinstance(error, StorageError) and not error.retryable:
                    raise
                self._log.warning("projection_waiting", error=str(error), pause_seconds=pause)
                # The server may come back as another one: verify before reading on.
                self._version = None
                await self._clock.sleep(pause)
                pause = min(pause * 2, RETRY_PAUSE_SECONDS_MAX)

    @asynccontextmanager
    async def _transaction(self) -> AsyncGenerator[Connection]:
        async with self._own.transaction() if self._own is not None else self._database.transaction() as connection:
            yield connection

    # -- starting and stopping ----------------------------------------------------------------------------------------

    async def _begin(self, *, is_first: bool) -> None:
        """Find out where the projection is, and whether the log still is the one it read."""
        async with self._database.transaction() as connection:
            if is_first and await resume_live(connection, self._definition.name):
                self._log.info("projection_resumed")
            version = await register(connection, self._definition)
        self._identity = await self._store.identity()
        self._tail.forget()
        self._generation = version.generation if is_first else self._generation
        self._version, self._is_stopped = version, version.status != "running"
        if self._is_stopped or not self._fits(version):
            return
        if is_first and version.fingerprint != self._definition.fingerprint:
            self._log.warning(
                "projection_code_changed",
                position=version.checkpoint.global_position,
                hint=f"rows up to here were made by other code; to make them anew: headwater replay {self._definition.name}",
            )
        try:
            await self._store.verify_checkpoint(version.checkpoint)
        except LogDiverged as error:
            await self._stop(version, "diverged", error)

    def _fits(self, version: ProjectionVersion) -> bool:
        """Whether this process's class may add to the rows; stops the projection here, and here alone, if it may not."""
        if version.shape != self._definition.shape:
            self._is_stopped = True
            self._log.error(
                "projection_outdated",
                hint=f"its rows were made by another definition (fields, key, events or tables); rebuild it: headwater replay {self._definition.name}",
            )
        elif version.generation != self._generation and version.fingerprint != self._definition.fingerprint:
            self._is_stopped = True
            self._log.error("projection_superseded", hint="it was rebuilt with other code than this process runs; start this process anew")
        return not self._is_stopped

    async def _stop(self, version: ProjectionVersion, status: str, error: HeadwaterError) -> None:
        """Write down that the projection stands still, and say it aloud."""
        async with self._database.transaction() as connection:
            await stop_projection(connection, version, status, str(error))
        self._is_stopped = True
        self._log.error(f"projection_{status}", error=str(error), position=version.checkpoint.global_position, exc_info=error.__cause__)

    async def _look_for_resumption(self) -> None:
        await self._clock.sleep(STOPPED_POLL_SECONDS)
        async with self._database.connection() as connection:
            version = await read_version(connection, self._definition.name)
        if version is None or version.status != "running" or version.shape != self._definition.shape:
            return
        if version.generation == self._generation or version.fingerprint == self._definition.fingerprint:
            self._log.info("projection_resumed")
            self._version, self._attempts, self._batch_size = None, 0, READ_BATCH_SIZE

    # -- going on -----------------------------------------------------------------------------------------------------

    async def _advance(self, version: ProjectionVersion) -> None:
        """One batch, or a wait for there to be one."""
        read = await self._tail.read(version.checkpoint.global_position, limit=self._batch_size)
        if read.identity != self._identity:
            # Another life of the log: is it still the one that the rows were made from?
            self._version = None
            return
        if not read.events:
            await self._tail.wait(read)
            return
        # Asked after the read: if the log is the same now, it was the same then. A pool gets new connections without a word (rule 5).
        if await self._store.identity() != self._identity:
            self._version = None
            return
        try:
            is_busy = not await self._apply(version, read)
        except ProjectionFailed as error:
            await self._failed(version, read, error)
        else:
            if is_busy:
                await self._clock.sleep(BUSY_PAUSE_SECONDS)

    async def _apply(self, version: ProjectionVersion, read: TailRead) -> bool:
        """Apply what was read, if the checkpoint still is where it was read from; False when another process works on it now."""
        try:
            return await self._apply_locked(version, read)
        except (HeadwaterError, OutdatedPlan):
            raise
        except Exception as error:
            # Tables dropped by hand, a privilege taken away: this projection stops, the others need not.
            raise failed(self._definition, read.events[0], error) from error

    async def _apply_locked(self, version: ProjectionVersion, read: TailRead) -> bool:
        assert self._identity is not None, "it was begun"
        async with self._transaction() as connection:
            found = await try_lock_version(connection, self._definition.name)
            if found is None:
                return False
            if found.status != "running":
                self._is_stopped = True
                self._log.error("projection_stopped_elsewhere", error=found.error)
                return True
            if not self._fits(found):
                return True
            self._version, self._generation = found, found.generation
            if found.checkpoint != version.checkpoint:
                return True
            checkpoint = await apply_batch(connection, self._definition, self._registry, self._identity, LIVE, read.events)
        self._version = replace(found, checkpoint=checkpoint)
        self._attempts, self._batch_size = 0, READ_BATCH_SIZE
        return True

    async def _failed(self, version: ProjectionVersion, read: TailRead, error: ProjectionFailed) -> None:
        before = sum(event.global_position < error.global_position for event in read.events)
        if before:
            # What stands before the event at fault comes in first, so that the read model stops at it exactly.
            self._batch_size = before
            return
        self._attempts += 1
        if self._attempts >= ATTEMPTS_MAX:
            await self._stop(self._version or version, "failed", error)
            return
        pause = min(RETRY_PAUSE_SECONDS_MIN * 2 ** (self._attempts - 1), RETRY_PAUSE_SECONDS_MAX)
        self._log.warning("projection_retries", error=str(error), attempt=self._attempts, pause_seconds=pause)
        await self._clock.sleep(pause)
