"""Making a read model anew while the old one serves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.errors import LogDiverged, ProjectionError, RebuildRunning
from headwater.eventstore import EventStore, LogIdentity, LogSlice
from headwater.messages import EventRegistry, LogPosition
from headwater.postgres import Connection, Database
from headwater.projections.applying import OutdatedPlan, apply_batch
from headwater.projections.definition import LIVE, NEXT, AnyProjection, ProjectionDefinition
from headwater.projections.postgres import (
    LockNotGiven,
    OwnSession,
    drop_old,
    hold_version,
    lock_version,
    read_version,
    register,
    remove_version,
    switch_version,
)
from headwater.projections.runner import check_projections
from headwater.projections.values import ProjectionVersion, RebuildProgress
from headwater.telemetry import logger

REBUILD_BATCH_SIZE: Final = 5_000
"""Events read, and applied in one transaction, at once."""
CLAIM_ATTEMPTS_MAX: Final = 10
CLAIM_PAUSE_SECONDS: Final = 0.1
"""The server takes a moment to notice that a killed process no longer claims the rebuild."""
SWITCH_LOCK_TIMEOUT_MILLISECONDS: Final = 500
"""How long the switch waits for readers and runners before it lets them go first; new readers wait behind it as long."""
SWITCH_ATTEMPTS_MAX: Final = 60
SWITCH_PAUSE_SECONDS: Final = 0.5

_log = logger("projections")


async def rebuild(
    database: Database,
    store: EventStore,
    registry: EventRegistry,
    projection_class: AnyProjection,
    *,
    progress: Callable[[RebuildProgress], None] | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> RebuildProgress:
    """Fill a second version of the projection from the beginning of the log, catch up, and switch to it in one transaction.

    Readers and runners go on meanwhile and after. A rebuild that was killed or cancelled leaves its version behind, and the next one goes on
    from there, provided that the projection's definition and the log are still the same.

    Args:
        progress: called after each batch, in this task; keep it short.
    Returns:
        The last progress.
    Raises:
        RebuildRunning: another process rebuilds this projection now.
        ProjectionFailed: the projection raised at an event; what was done so far is kept, and the old version serves on.
        ProjectionError: readers kept the old version in its place for too long; repeat it, nothing is lost.
    """
    (definition,) = check_projections(registry, [projection_class])
    session = OwnSession(database)
    try:
        return await _Rebuild(definition, session, store, registry, progress, clock).run()
    finally:
        await session.close()


class _Rebuild:
    """One run of a rebuild. All it does, it does in one session, whose end gives up its claim."""

    def __init__(
        self,
        definition: ProjectionDefinition,
        session: OwnSession,
        store: EventStore,
        registry: EventRegistry,
        progress: Callable[[RebuildProgress], None] | None,
        clock: Clock,
    ) -> None:
        self._definition, self._session, self._store, self._registry = definition, session, store, registry
        self._progress, self._clock = progress, clock
        self._began_at = clock.monotonic()
        self._done_before = 0
        self._log = _log.bind(projection=definition.name)

    async def run(self) -> RebuildProgress:
        await self._claim()
        identity = await self._store.identity()
        version = await self._prepare()
        self._done_before = version.event_count
        self._report(version, version.checkpoint.global_position)
        for _ in range(SWITCH_ATTEMPTS_MAX):
            version = await self._catch_up(version, identity)
            try:
                version = await self._switch(identity)
            except LockNotGiven:
                self._log.info("projection_switch_waits", hint="readers or a runner hold the old version")
                await self._clock.sleep(SWITCH_PAUSE_SECONDS)
            else:
                break
        else:
            raise ProjectionError(
                f"the projection {self._definition.name} is rebuilt, but readers kept the old version in its place for too long; end long "
                "transactions on it and repeat the rebuild: it only has to switch"
            )
        await self._drop_old()
        self._log.info("projection_rebuilt", position=version.checkpoint.global_position, event_count=version.event_count)
        return self._report(version, version.checkpoint.global_position, done=True)

    async def _claim(self) -> None:
        for _ in range(CLAIM_ATTEMPTS_MAX):
            if await self._session.claim_rebuild(self._definition.name):
                return
            await self._clock.sleep(CLAIM_PAUSE_SECONDS)
        raise RebuildRunning(
            f"another process rebuilds the projection {self._definition.name} now; wait for it to finish, or stop it and repeat this: it resumes"
        )

    # -- filling ------------------------------------------------------------------------------------------------------

    async def _prepare(self) -> ProjectionVersion:
        """The next version: the one that was begun, if it was begun from this definition and this log, else a new one."""
        definition = self._definition
        async with self._session.transaction() as connection:
            await register(connection, definition, LIVE)
        async with self._session.transaction() as connection:
            begun = await read_version(connection, definition.name, NEXT)
        is_usable = begun is not None and begun.fingerprint == definition.fingerprint
        if is_usable and begun is not None:
            try:
                await self._store.verify_checkpoint(begun.checkpoint)
            except LogDiverged:
                is_usable = False
        await self._drop_old()
        async with self._session.transaction() as connection:
            if not is_usable:
                await remove_version(connection, definition, NEXT)
            version = await register(connection, definition, NEXT)
        if version.event_count:
            self._log.info("projection_rebuild_resumed", position=version.checkpoint.global_position)
        return version

    async def _catch_up(self, version: ProjectionVersion, identity: LogIdentity) -> ProjectionVersion:
        """Apply until the log has no full batch left; the next batch is read while this one is applied."""
        read = await self._store.read_log(after=version.checkpoint.global_position, limit=REBUILD_BATCH_SIZE)
        while read.events:
            ahead: asyncio.Task[LogSlice] | None = None
            if len(read.events) == REBUILD_BATCH_SIZE:
                ahead = asyncio.create_task(self._store.read_log(after=read.events[-1].global_position, limit=REBUILD_BATCH_SIZE))
            try:
                version = await self._apply(version, read, identity)
            except BaseException:
                if ahead is not None:
                    ahead.cancel()
                    await asyncio.wait([ahead])
                raise
            self._report(version, read.horizon)
            if ahead is None:
                break
            read = await ahead
        return version

    async def _apply(self, version: ProjectionVersion, read: LogSlice, identity: LogIdentity) -> ProjectionVersion:
        async with self._session.transaction() as connection:
            locked = await lock_version(connection, version.name, NEXT)
            if locked is None or locked.checkpoint != version.checkpoint:
                raise RebuildRunning(f"another process took over the rebuild of {version.name}; this one ends")
            return await self._apply_on(connection, read, identity)

    async def _apply_on(self, connection: Connection, read: LogSlice, identity: LogIdentity) -> ProjectionVersion:
        try:
            await apply_batch(connection, self._definition, self._registry, identity, NEXT, read.events)
        except OutdatedPlan as error:
            raise AssertionError("this connection has seen no version but the next one") from error
        version = await read_version(connection, self._definition.name, NEXT)
        assert version is not None, "its row is locked here"
        return version

    # -- switching ----------------------------------------------------------------------------------------------------

    async def _switch(self, identity: LogIdentity) -> ProjectionVersion:
        """Keep runners out, apply what is left, make sure that nothing is lost by it, and put the next version in the live one's place.

        Readers are kept out last and shortest: reading the log takes a connection, and waiting readers hold those.
        """
        async with self._session.transaction() as connection:
            live = await hold_version(connection, self._definition.name, SWITCH_LOCK_TIMEOUT_MILLISECONDS)
            version = await lock_version(connection, self._definition.name, NEXT)
            if live is None or version is None:
                raise RebuildRunning(
                    f"the projection {self._definition.name} was removed or rebuilt by another process meanwhile; this rebuild ends"
                )
            # Up to the old mark, not to the log's end: writers may be faster than the projection is.
            while _mark(version) < _mark(live):
                read = await self._store.read_log(after=version.checkpoint.global_position, limit=REBUILD_BATCH_SIZE)
                if not read.events:
                    await self._allow_step_back(live)
                    break
                version = await self._apply_on(connection, read, identity)
            await switch_version(connection, self._definition)
        return version

    async def _allow_step_back(self, live: ProjectionVersion) -> None:
        """Only a live version that read what the log has lost since may be ahead of all there is to read."""
        try:
            await self._store.verify_checkpoint(live.checkpoint)
        except LogDiverged:
            return
        raise ProjectionError(
            f"the rebuilt version of {live.name} does not reach position {live.checkpoint.global_position}, where the old one is; nothing was switched"
        )

    async def _drop_old(self) -> None:
        """Free the space of the version that was replaced; while somebody still reads it, that is left to the next rebuild."""
        try:
            async with self._session.transaction() as connection:
                await drop_old(connection, self._definition, SWITCH_LOCK_TIMEOUT_MILLISECONDS)
        except LockNotGiven:
            self._log.warning("projection_old_version_kept", hint="somebody still reads it; the next rebuild drops it")

    def _report(self, version: ProjectionVersion, horizon: int, *, done: bool = False) -> RebuildProgress:
        elapsed = self._clock.monotonic() - self._began_at
        rate = (version.event_count - self._done_before) / elapsed if elapsed > 0 else 0.0
        left = 0 if done else max(horizon - version.checkpoint.global_position, 0)
        reported = RebuildProgress(
            projection=version.name,
            events_done=version.event_count,
            events_total=version.event_count + left,
            events_per_second=rate,
            seconds_left=0.0 if done else left / rate if rate > 0 else None,
            done=done,
        )
        if self._progress is not None:
            self._progress(reported)
        return reported


def _mark(version: ProjectionVersion) -> LogPosition:
    return LogPosition(version.checkpoint.epoch, version.checkpoint.global_position)
