"""Snapshots without a server."""

from __future__ import annotations

from typing import NoReturn

from headwater.errors import UsageError
from headwater.eventstore import Snapshot
from headwater.postgres import CallerConnection


class MemorySnapshotStore:
    """A `SnapshotStore` in memory, without transactions."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], Snapshot] = {}

    async def load(self, stream_name: str, decider_name: str, *, connection: CallerConnection | None = None) -> Snapshot | None:
        """The snapshot, if there is one; see `SnapshotStore.load`."""
        if connection is not None:
            _refuse_connection()
        return self._kept.get((stream_name, decider_name))

    async def save(self, snapshot: Snapshot, *, connection: CallerConnection | None = None) -> None:
        """Keep it, unless there is a newer one; see `SnapshotStore.save`."""
        if connection is not None:
            _refuse_connection()
        kept = self._kept.get((snapshot.stream_name, snapshot.decider_name))
        if kept is None or kept.version < snapshot.version or kept.shape != snapshot.shape:
            self._kept[snapshot.stream_name, snapshot.decider_name] = snapshot

    async def drop(self, snapshot: Snapshot, *, connection: CallerConnection | None = None) -> None:
        """Delete exactly this one; see `SnapshotStore.drop`."""
        if connection is not None:
            _refuse_connection()
        key = (snapshot.stream_name, snapshot.decider_name)
        kept = self._kept.get(key)
        # As the database compares: the state follows from the rest.
        if kept is not None and (kept.version, kept.event_id, kept.shape) == (snapshot.version, snapshot.event_id, snapshot.shape):
            del self._kept[key]

    @property
    def snapshots(self) -> tuple[Snapshot, ...]:
        """All of them, for assertions."""
        return tuple(self._kept.values())


def _refuse_connection() -> NoReturn:
    raise UsageError("snapshots in memory have no transactions, so connection= cannot join one; leave it out, or test on PostgreSQL")
