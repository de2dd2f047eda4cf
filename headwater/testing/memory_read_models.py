"""Read models without a server: folded from a store's log whenever they are read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TypeVar, cast

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


@dataclass(slots=True)
class _Fold:
    after: int = 0
    rows: dict[str, Projection] = field(default_factory=dict[str, Projection])


class MemoryReadModels:
    """A `RowReader` that is always up to date: every read first folds what is new in the log, so every consistency is `strong`."""

    def __init__(self, store: EventStore, registry: EventRegistry) -> None:
        """Fold the events of this store, decoded by this registry."""
        self._store, self._registry = store, registry
        self._folds: dict[type[Projection], _Fold] = {}

    async def read(
        self,
        projection_class: type[ProjectionT],
        key: object = None,
        *,
        consistency: Consistency = "eventual",  # noqa: ARG002 - a fold of everything satisfies each
        timeout_seconds: float = READ_TIMEOUT_SECONDS,  # noqa: ARG002 - there is nothing to wait for
        written: LogPosition | int | None = None,  # noqa: ARG002 - as above
        connection: CallerConnection | None = None,  # noqa: ARG002 - as above
    ) -> ProjectionT | None:
        """One row, or None when no event made it; see `RowReader.read`."""
        row_key = row_key_of(fold_definition(projection_class), key)
        row = (await self._folded(projection_class)).get(row_key)
        return None if row is None else cast("ProjectionT", row.model_copy(deep=True))

    async def read_all(
        self, projection_class: type[ProjectionT], *, after: object = None, limit: int | None = None
    ) -> AsyncIterator[ProjectionT]:
        """Rows in order of their keys' text; see `RowReader.read_all`."""
        rows = await self._folded(projection_class)
        keys = sorted(key for key in rows if after is None or key > key_text(after))
        for key in keys[: len(keys) if limit is None else max(limit, 0)]:
            yield cast("ProjectionT", rows[key].model_copy(deep=True))

    async def _folded(self, projection_class: type[Projection]) -> dict[str, Projection]:
        definition = fold_definition(projection_class)
        fold = self._folds.setdefault(projection_class, _Fold())
        while events := (await self._store.read_log(after=fold.after)).events:
            fold_steps(definition, fold.rows, steps_of(definition, self._registry, events))
            fold.after = events[-1].global_position
        return fold.rows
