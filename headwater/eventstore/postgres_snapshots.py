"""Snapshots in PostgreSQL, beside the log."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

from headwater.eventstore.snapshots import Snapshot
from headwater.postgres import CallerConnection, Connection, Database, sql_file, translate_errors

_PACKAGE: Final = "headwater.eventstore"
_LOAD_SNAPSHOT = sql_file(_PACKAGE, "load_snapshot")
_SAVE_SNAPSHOT = sql_file(_PACKAGE, "save_snapshot")
_DROP_SNAPSHOT = sql_file(_PACKAGE, "drop_snapshot")


class PostgresSnapshotStore:
    """A `SnapshotStore` over a `Database` that somebody else opens and closes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, stream_name: str, decider_name: str, *, connection: CallerConnection | None = None) -> Snapshot | None:
        """The snapshot, if there is one; see `SnapshotStore.load`."""
        async with self._on(connection) as session:
            row = await session.fetchrow(_LOAD_SNAPSHOT, stream_name, decider_name)
        return None if row is None else Snapshot(**dict(row))

    async def save(self, snapshot: Snapshot, *, connection: CallerConnection | None = None) -> None:
        """Keep it, unless there is a newer one; see `SnapshotStore.save`."""
        async with self._on(connection) as session:
            await session.execute(_SAVE_SNAPSHOT, *_key_parts(snapshot), snapshot.state)

    async def drop(self, snapshot: Snapshot, *, connection: CallerConnection | None = None) -> None:
        """Delete exactly this one; see `SnapshotStore.drop`."""
        async with self._on(connection) as session:
            await session.execute(_DROP_SNAPSHOT, *_key_parts(snapshot))

    @asynccontextmanager
    async def _on(self, connection: CallerConnection | None) -> AsyncGenerator[Connection]:
        if connection is None:
            async with self._database.statement_connection() as own:
                yield own
        else:
            driver = await self._database.joined(connection)
            with translate_errors():
                yield driver


def _key_parts(snapshot: Snapshot) -> tuple[object, ...]:
    return snapshot.stream_name, snapshot.decider_name, snapshot.version, snapshot.event_id, snapshot.shape
