"""Read models that are folded anew from any event store, for tests without servers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TypeVar

from headwater.errors import ConsistencyTimeout, UsageError
from headwater.eventstore import EventStore
from headwater.messages import EventRegistry, LogPosition
from headwater.postgres import CallerConnection
from headwater.projections import (
    READ_TIMEOUT_SECONDS,
    Consistency,
    Projection,
    fold_definition,
    fold_steps,
    key_text,
    row_key_of,
    steps_of,
)

ProjectionT = TypeVar("ProjectionT", bound=Projection)


class MemoryReadModels:
    """A `RowReader` that keeps nothing: each read folds the log to its end, so every read is a strong one.

    A projection that raises raises here, to whoever reads. SQL projections need PostgreSQL.
    """

    def __init__(self, store: EventStore, registry: EventRegistry | None = None) -> None:
        self._store, self._registry = store, registry or EventRegistry()

    async def read(
        self,
        projection_class: type[ProjectionT],
        key: object = None,
        *,
        consistency: Consistency = "eventual",
        timeout_seconds: float = READ_TIMEOUT_SECONDS,  # noqa: ARG002 - nothing is waited for: nobody else moves this log on
        written: LogPosition | int | None = None,
        connection: CallerConnection | None = None,
    ) -> ProjectionT | None:
        """One row, or None when no event made it; see `RowReader.read`."""
        if connection is not None:
            raise UsageError("the read models in memory have no transactions; read without a connection")
        row_key = row_key_of(fold_definition(projection_class), key)
        rows, horizon = await self._fold(projection_class)
        goal = written.global_position if isinstance(written, LogPosition) else written
        if consistency == "causal" and goal is not None and horizon < goal:
            raise ConsistencyTimeout(
                f"the projection {projection_class.projection_name} is at position {horizon}, {goal - horizon} behind {goal}, which this read needs"
            )
        return rows.get(row_key)

    async def read_all(
        self, projection_class: type[ProjectionT], *, after: object = None, limit: int | None = None
    ) -> AsyncIterator[ProjectionT]:
        """Rows in order of their keys' text; see `RowReader.read_all`."""
        rows, _ = await self._fold(projection_class)
        keys = sorted(key for key in rows if after is None or key > key_text(after))
        for key in keys[:limit]:
            yield rows[key]

    async def _fold(self, projection_class: type[ProjectionT]) -> tuple[dict[str, ProjectionT], int]:
        definition = fold_definition(projection_class)
        for event_class in definition.event_classes:
            self._registry.register(event_class)
        rows: dict[str, Projection] = {}
        position = 0
        while (read := await self._store.read_log(after=position)).events:
            fold_steps(definition, rows, steps_of(definition, self._registry, read.events))
            position = read.events[-1].global_position
        return {key: row for key, row in rows.items() if isinstance(row, projection_class)}, max(position, read.horizon)
