"""Projections as an operator looks at them: how far each got, what it stands at, and whether it is being rebuilt. Reads only."""

from __future__ import annotations

from dataclasses import dataclass

from headwater.eventstore import LogInspection, PostgresEventStore
from headwater.postgres import Database, sql_file
from headwater.projections.definition import LIVE, NEXT
from headwater.projections.postgres import count_rows, list_projections, list_tables, read_version, unknown_projection
from headwater.projections.values import ProjectionVersion

_IS_REBUILDING = sql_file("headwater.projections", "is_rebuilding")


@dataclass(frozen=True, slots=True)
class ProjectionLag:
    """One projection, and how far it is behind."""

    live: ProjectionVersion
    following: ProjectionVersion | None
    """What a rebuild has made so far, or had when it was cut off."""
    lag_events: int
    """Events that can be read and that it has not read; not counted beyond `LAG_COUNT_MAX`."""
    is_rebuilding: bool
    """Whether a process rebuilds it now."""
    horizon: int


async def list_lags(database: Database) -> tuple[ProjectionLag, ...]:
    """Every projection that ran on this database, by name."""
    versions = await list_projections(database)
    horizon = await PostgresEventStore(database).horizon()
    following = {version.name: version for version in versions if version.role == NEXT}
    return tuple([await _with_lag(database, version, following.get(version.name), horizon) for version in versions if version.role == LIVE])


async def read_lag(database: Database, name: str) -> ProjectionLag:
    """One projection.

    Raises:
        NotFoundError: none of this name ran on this database; names those that did.
    """
    async with database.connection() as connection:
        live, following = await read_version(connection, name, LIVE), await read_version(connection, name, NEXT)
        if live is None:
            raise await unknown_projection(connection, name)
    return await _with_lag(database, live, following, await PostgresEventStore(database).horizon())


async def count_all_rows(database: Database, version: ProjectionVersion) -> dict[str, int]:
    """How many rows each table of a version has; reads them all."""
    async with database.connection() as connection:
        tables = await list_tables(connection, version.schema_name)
        return {table: await count_rows(connection, version.schema_name, table) for table in tables}


async def _with_lag(database: Database, live: ProjectionVersion, following: ProjectionVersion | None, horizon: int) -> ProjectionLag:
    lag = await LogInspection(database).count_between(live.checkpoint.global_position, horizon)
    async with database.connection() as connection:
        is_rebuilding = bool(await connection.fetchval(_IS_REBUILDING, live.name))
    return ProjectionLag(live, following, lag, is_rebuilding, horizon)
