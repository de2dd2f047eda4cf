"""Reading read models, as fresh as the reader needs them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, Protocol, TypeVar

from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.errors import ConsistencyTimeout, NotFoundError, ProjectionStopped, UsageError
from headwater.eventstore import EventStore
from headwater.messages import EventRegistry, LogPosition
from headwater.postgres import CallerConnection, Connection, Database, translate_errors
from headwater.projections.definition import AnyProjection, ProjectionDefinition, definition_of, key_text
from headwater.projections.fold import SINGLE_ROW, Projection, decode_row
from headwater.projections.postgres import (
    QueryConnection,
    begin_reading,
    has_appended,
    list_states,
    pin_version,
    read_head,
    read_state,
    read_version,
    schema_identity,
    set_search_path,
    unknown_projection,
)
from headwater.projections.values import Consistency, ProjectionVersion, Verification
from headwater.projections.verification import verify

READ_TIMEOUT_SECONDS: Final = 5.0
PAGE_SIZE: Final = 1_000
"""Rows fetched at once when reading a whole model."""
WAIT_PAUSE_SECONDS_MIN: Final = 0.002
WAIT_PAUSE_SECONDS_MAX: Final = 0.05

ProjectionT = TypeVar("ProjectionT", bound=Projection)


class RowReader(Protocol):
    """Reads the rows of folds; on PostgreSQL, or in memory for tests."""

    async def read(
        self,
        projection_class: type[ProjectionT],
        key: object = None,
        *,
        consistency: Consistency = "eventual",
        timeout_seconds: float = READ_TIMEOUT_SECONDS,
        written: LogPosition | int | None = None,
        connection: CallerConnection | None = None,
    ) -> ProjectionT | None:
        """One row, or None when no event made it.

        Args:
            key: what the projection's key gave for its events; left out for a projection without a key.
            consistency: `eventual`: what is there now; `causal`: with everything up to `written`; `strong`: with everything committed before
                this call.
            timeout_seconds: how long to wait for that at most.
            written: the last position that the caller wrote, as its append returned it; None where it wrote nothing.
            connection: read on it, inside its transaction.
        Raises:
            ConsistencyTimeout: the projection did not get that far in time; it says how far behind it is.
            ProjectionStopped: it stands still, so waiting would be in vain.
            UsageError: a wait inside the very transaction that appended: it would wait for its own commit.
            NotFoundError: the projection never ran here.
            ProjectionError: the stored row does not fit the class; rebuild.
        """
        ...

    def read_all(
        self, projection_class: type[ProjectionT], *, after: object = None, limit: int | None = None
    ) -> AsyncIterator[ProjectionT]:
        """Rows in order of their keys' text, those after a key, at most as many as the limit; each as it is when its page is read."""
        ...


class ReadModels:
    """A `RowReader` on PostgreSQL, with queries on SQL projections and the comparison with the log.

    Args:
        wake: called while a read waits, to ring the doorbell of a runner in this process.
    """

    def __init__(
        self,
        database: Database,
        store: EventStore,
        registry: EventRegistry,
        *,
        wake: Callable[[], None] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._database, self._store, self._registry, self._wake, self._clock = database, store, registry, wake, clock

    async def read(
        self,
        projection_class: type[ProjectionT],
        key: object = None,
        *,
        consistency: Consistency = "eventual",
        timeout_seconds: float = READ_TIMEOUT_SECONDS,
        written: LogPosition | int | None = None,
        connection: CallerConnection | None = None,
    ) -> ProjectionT | None:
        """One row, or None when no event made it; see `RowReader.read`."""
        definition = fold_definition(projection_class)
        row_key = row_key_of(definition, key)
        own = None if connection is None else await self._database.joined(connection)
        await self._reach(definition, consistency, timeout_seconds, written, own)
        if own is not None:
            with translate_errors():
                state = await read_state(own, definition, row_key)
        else:
            async with self._database.connection() as borrowed:
                state = await read_state(borrowed, definition, row_key)
        return None if state is None else decode_row(projection_class, row_key, state)

    async def read_all(
        self, projection_class: type[ProjectionT], *, after: object = None, limit: int | None = None
    ) -> AsyncIterator[ProjectionT]:
        """Rows in order of their keys' text; see `RowReader.read_all`."""
        definition = fold_definition(projection_class)
        last = None if after is None else key_text(after)
        remaining = limit
        while remaining is None or remaining > 0:
            wanted = PAGE_SIZE if remaining is None else min(remaining, PAGE_SIZE)
            async with self._database.connection() as connection:
                page = await list_states(connection, definition, last, wanted)
            for key, state in page:
                yield decode_row(projection_class, key, state)
            if len(page) < wanted:
                return
            last = page[-1][0]
            remaining = None if remaining is None else remaining - len(page)

    @asynccontextmanager
    async def connection(
        self,
        projection_class: AnyProjection,
        *,
        consistency: Consistency = "eventual",
        timeout_seconds: float = READ_TIMEOUT_SECONDS,
        written: LogPosition | int | None = None,
    ) -> AsyncGenerator[QueryConnection]:
        """A connection for queries on a projection's own tables, in a read-only transaction.

        A rebuild does not switch while it is open, so keep it short.

        Raises:
            ConsistencyTimeout, ProjectionStopped, NotFoundError: as `read`.
        """
        definition = definition_of(projection_class)
        await self._reach(definition, consistency, timeout_seconds, written, None)
        schema = definition.schema_name(log_schema=self._database.schema)
        async with self._database.transaction() as connection:
            await begin_reading(connection)
            await pin_version(connection, definition.name)
            identity = await schema_identity(connection, schema)
            if identity is None:
                raise await unknown_projection(connection, definition.name)
            await set_search_path(connection, schema)
            yield QueryConnection(connection, f"{schema}@{identity}")

    async def verify(self, projection_class: AnyProjection) -> Verification:
        """The read model compared with an independent fold of the log up to its checkpoint; see `verify`."""
        return await verify(self._database, self._store, self._registry, projection_class)

    # -- waiting ------------------------------------------------------------------------------------------------------

    async def _reach(
        self,
        definition: ProjectionDefinition,
        consistency: Consistency,
        timeout_seconds: float,
        written: LogPosition | int | None,
        own: Connection | None,
    ) -> None:
        """Wait until the projection is as far as the reader asks."""
        if consistency == "eventual":
            return
        if consistency not in ("causal", "strong"):
            raise UsageError(f"consistency={consistency!r}: give 'eventual', 'causal' or 'strong'")
        if own is not None:
            with translate_errors():
                if await has_appended(own):
                    raise UsageError(
                        f"a {consistency} read inside the transaction that appended would wait for its own commit; read after the commit, or with "
                        "consistency='eventual'"
                    )
        if consistency == "strong":
            async with self._database.connection() as connection:
                written = await read_head(connection)
        if written is not None:
            await _Wait(definition, written, self._database, self._store).run(timeout_seconds, self._clock, self._wake)


class _Wait:
    """One reader's wait for one position."""

    def __init__(self, definition: ProjectionDefinition, written: LogPosition | int, database: Database, store: EventStore) -> None:
        self._name, self._database, self._store = definition.name, database, store
        self._token = written if isinstance(written, LogPosition) else None
        self._goal = written.global_position if isinstance(written, LogPosition) else written
        self._is_final = False
        self._version: ProjectionVersion | None = None

    async def run(self, timeout_seconds: float, clock: Clock, wake: Callable[[], None] | None) -> None:
        if await self._is_reached():
            return
        try:
            async with asyncio.timeout(timeout_seconds):
                pause = WAIT_PAUSE_SECONDS_MIN
                while not await self._is_reached():
                    self._raise_if_stopped()
                    if wake is not None:
                        wake()
                    await clock.sleep(pause)
                    pause = min(pause * 2, WAIT_PAUSE_SECONDS_MAX)
        except TimeoutError:
            if self._version is None:
                raise await self._never_ran() from None
            raise ConsistencyTimeout(self._explain(timeout_seconds)) from None

    async def _is_reached(self) -> bool:
        async with self._database.connection() as connection:
            self._version = await read_version(connection, self._name)
        if self._version is None:
            # Its first runner may be about to start.
            return False
        checkpoint = self._version.checkpoint
        if self._token is not None and LogPosition(checkpoint.epoch, checkpoint.global_position) >= self._token:
            return True
        if checkpoint.global_position >= self._goal and (self._token is None or checkpoint.epoch >= self._token.epoch):
            return True
        if self._is_final or await self._store.horizon() < self._goal:
            return False
        # Nothing at or below the position can come any more. If its own append was undone, the event before it is all there is to wait for.
        async with self._database.connection() as connection:
            self._goal = await read_head(connection, self._goal)
        self._token, self._is_final = None, True
        return checkpoint.global_position >= self._goal

    async def _never_ran(self) -> NotFoundError:
        async with self._database.connection() as connection:
            return await unknown_projection(connection, self._name)

    def _raise_if_stopped(self) -> None:
        if self._version is not None and self._version.status != "running":
            raise ProjectionStopped(
                f"the projection {self._name} {self._version.status} at position {self._version.checkpoint.global_position} and waits for a person: "
                f"{self._version.error}. Mend it, then start its process anew, or rebuild it: headwater replay {self._name}"
            )

    def _explain(self, timeout_seconds: float) -> str:
        position = self._version.checkpoint.global_position if self._version else 0
        return (
            f"the projection {self._name} is at position {position}, {self._goal - position} behind {self._goal}, which this read needs, after "
            f"{timeout_seconds:g} s; is its runner running? Read again, wait longer (timeout_seconds), or read with consistency='eventual'"
        )


def fold_definition(projection_class: type[Projection]) -> ProjectionDefinition:
    """The definition of a fold, whose rows can be read by key.

    Raises:
        UsageError: it is an SQL projection, or none at all.
    """
    definition = definition_of(projection_class)
    if definition.is_sql:
        raise UsageError(
            f"{definition.projection_class.__name__} keeps its rows in tables of its own; query them: async with read_models.connection("
            f"{definition.projection_class.__name__}) as connection: await connection.fetch(…)"
        )
    return definition


def row_key_of(definition: ProjectionDefinition, key: object) -> str:
    """The text of the key that a reader gave.

    Raises:
        UsageError: a key is missing, or there is none to give.
    """
    if definition.key is None:
        if key not in (None, SINGLE_ROW):
            raise UsageError(f"{definition.projection_class.__name__} has one row and no key; read it without one, not with {key!r}")
        return SINGLE_ROW
    if key is None:
        raise UsageError(f"say which row of {definition.projection_class.__name__} to read: give its key")
    return key_text(key)
