"""The read models of a service: registered, read, verified and rebuilt."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

from headwater.errors import NotFoundError, UsageError
from headwater.projections import (
    READ_TIMEOUT_SECONDS,
    AnyProjection,
    Consistency,
    Projection,
    QueryConnection,
    RebuildProgress,
    SqlProjection,
    Verification,
    definition_of,
    rebuild,
)
from headwater.service.events import ServiceEvents

if TYPE_CHECKING:
    from headwater.service.parts import Parts

ProjectionT = TypeVar("ProjectionT", bound=Projection)
AnyProjectionT = TypeVar("AnyProjectionT", bound="type[Projection | SqlProjection]")


class KeepsReadModels:
    """The part of a service that deals with projections."""

    name: str
    events: ServiceEvents

    def __init__(self) -> None:
        super().__init__()
        self.projections: dict[str, AnyProjection] = {}

    def open_parts(self) -> Parts:
        """What is there while the service is open; see `Service.open_parts`."""
        raise NotImplementedError

    def projection(self, projection_class: AnyProjectionT) -> AnyProjectionT:
        """Register a read model, kept up to date from this service's log."""
        definition = definition_of(projection_class)
        known = self.projections.setdefault(definition.name, projection_class)
        if known is not projection_class:
            raise UsageError(f"two projections of {self.name!r} are named {definition.name!r}; rename one of the classes")
        for event_class in definition.event_classes:
            self.events.register(event_class)
        return projection_class

    def find_projection(self, name: str) -> AnyProjection:
        """The projection of this name.

        Raises:
            NotFoundError: naming those there are.
        """
        if (found := self.projections.get(name)) is None:
            raise NotFoundError(
                f"the service {self.name!r} has no projection {name!r}; it has: {', '.join(sorted(self.projections)) or 'none'}"
            )
        return found

    async def read(
        self,
        projection_class: type[ProjectionT],
        key: object = None,
        *,
        consistency: Consistency = "eventual",
        timeout_seconds: float = READ_TIMEOUT_SECONDS,
    ) -> ProjectionT | None:
        """One row of a read model, or None when no event made it.

        Args:
            consistency: `eventual`: what is there now; `causal`: with everything that this process appended through the service; `strong`: with
                everything committed before this call.
        Raises:
            ConsistencyTimeout: the read model did not get that far in time.
        """
        parts = self.open_parts()
        return await parts.read_models.read(
            projection_class, key, consistency=consistency, timeout_seconds=timeout_seconds, written=parts.store.last_written
        )

    def read_all(self, projection_class: type[ProjectionT]) -> AsyncIterator[ProjectionT]:
        """Every row of a read model, in order of key."""
        return self.open_parts().read_models.read_all(projection_class)

    @asynccontextmanager
    async def query(
        self,
        projection_class: AnyProjection,
        *,
        consistency: Consistency = "eventual",
        timeout_seconds: float = READ_TIMEOUT_SECONDS,
    ) -> AsyncGenerator[QueryConnection]:
        """A connection for read-only queries on a projection's own tables, named without a schema. Keep it short: a rebuild cannot switch meanwhile.

        Raises:
            ConsistencyTimeout: the read model did not get that far in time.
        """
        parts = self.open_parts()
        async with parts.read_models.connection(
            projection_class, consistency=consistency, timeout_seconds=timeout_seconds, written=parts.store.last_written
        ) as connection:
            yield connection

    async def verify(self, projection_class: AnyProjection) -> Verification:
        """Compare a read model with an independent fold of the log up to its checkpoint."""
        return await self.open_parts().read_models.verify(projection_class)

    async def replay(self, name: str, *, progress: Callable[[RebuildProgress], None] | None = None) -> RebuildProgress:
        """Rebuild a read model from the log while the old one serves, then switch; resumes an interrupted rebuild.

        Raises:
            NotFoundError: the service has no such projection.
        """
        parts = self.open_parts()
        return await rebuild(parts.database, parts.store, self.events.registry, self.find_projection(name), progress=progress)
