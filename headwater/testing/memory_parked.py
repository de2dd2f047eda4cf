"""Parked keys in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

from headwater.bus import Follower, ParkedKey, ParkedRecord, ParkedRequest, ParkedRequestKind, PartitionPosition
from headwater.clock import Clock
from headwater.kafka import Partition

if TYPE_CHECKING:
    from headwater.testing.memory_effects import MemoryEffects


@dataclass(slots=True)
class MemoryParkedKey:
    """One row, and the messages that wait."""

    group: str
    partition: Partition
    state: ParkedKey
    due_at: datetime
    records: list[ParkedRecord] = field(default_factory=list[ParkedRecord])
    request: ParkedRequest | None = None


class MemoryParking:
    """What is parked in a memory store of effects; people decide here as they do at a `ParkedDesk`."""

    def __init__(self, clock: Clock) -> None:
        """Nothing is parked; this clock says when things are due."""
        self._clock = clock
        self.keys: dict[int, MemoryParkedKey] = {}
        self.next_key_id, self.next_message_id = count(1), count(1)

    def request(self, parked_key_id: int, kind: ParkedRequestKind) -> None:
        """Ask the partition's owner to retry, skip or discard the first message."""
        row = self.keys[parked_key_id]
        row.request = ParkedRequest(row.partition, parked_key_id, kind, self._clock.now(), row.records[0].message_id)

    def load(self, group: str, partition: Partition, monotonic: float) -> list[ParkedKey]:
        """What is parked of a partition."""
        return [
            replace(
                row.state,
                due_at=monotonic + max(0.0, (row.due_at - self._clock.now()).total_seconds()),
                message_count=len(row.records),
                conflicts=0,
                is_alone=False,
                is_in_lane=False,
                request=None,
                is_orphan=False,
            )
            for row in self.keys.values()
            if (row.group, row.partition) == (group, partition)
        ]

    def requests(self, group: str, partitions: Sequence[Partition]) -> list[ParkedRequest]:
        """What people want done."""
        found = [
            row.request for row in self.keys.values() if row.group == group and row.partition in partitions and row.request is not None
        ]
        return sorted(found, key=lambda request: request.requested_at)


class MemoryParkedRows:
    """`ParkedRows` that keeps everything aside until the transaction commits."""

    def __init__(self, effects: MemoryEffects, parking: MemoryParking, clock: Clock) -> None:
        self._effects, self._parking, self._clock = effects, parking, clock
        self._changes: list[Callable[[], None]] = []
        self.held: list[tuple[str, PartitionPosition]] = []

    @property
    def is_changed(self) -> bool:
        """Whether a commit would change something."""
        return bool(self._changes)

    async def hold(self, group: str, claimed: PartitionPosition) -> bool:
        if not self._effects.is_owner(group, claimed):
            return False
        self.held.append((group, claimed))
        return True

    async def open(self, group: str, partition: Partition, parked: ParkedKey, due_in_seconds: float) -> int:
        rows = self._parking.keys.values()
        place = (group, partition, parked.key, parked.handler_name)
        assert all((r.group, r.partition, r.state.key, r.state.handler_name) != place for r in rows), f"{place} is parked already"
        parked_key_id = next(self._parking.next_key_id)
        state = replace(parked, parked_key_id=parked_key_id)
        row = MemoryParkedKey(group, partition, state, self._clock.now() + timedelta(seconds=due_in_seconds))
        self._changes.append(lambda: self._parking.keys.update({parked_key_id: row}))
        return parked_key_id

    async def add(self, followers: Sequence[Follower]) -> None:
        for parked, record, _ in followers:
            kept = ParkedRecord(
                next(self._parking.next_message_id),
                record.topic,
                record.partition,
                record.offset,
                record.timestamp,
                record.key,
                record.value,
                tuple(record.headers),
            )
            self._changes.append(partial(self._append, parked.parked_key_id, kept))

    async def read(self, parked: ParkedKey, partition: Partition, limit: int) -> Sequence[ParkedRecord]:
        row = self._parking.keys[parked.parked_key_id]
        assert row.partition == partition, "read by the owner of the partition"
        return row.records[:limit]

    async def remove(self, message_ids: Sequence[int]) -> None:
        def change() -> None:
            for row in self._parking.keys.values():
                row.records = [record for record in row.records if record.message_id not in message_ids]

        self._changes.append(change)

    async def update(self, parked: ParkedKey, due_in_seconds: float, request: ParkedRequest | None) -> None:
        due_at = self._clock.now() + timedelta(seconds=due_in_seconds)

        def change() -> None:
            row = self._parking.keys[parked.parked_key_id]
            row.state, row.due_at = parked, due_at
            if row.request == request:
                row.request = None

        self._changes.append(change)

    async def close(self, parked: ParkedKey) -> None:
        def change() -> None:
            row = self._parking.keys.pop(parked.parked_key_id)
            assert not row.records, "a key is free only when nothing waits for it"

        self._changes.append(change)

    def _append(self, parked_key_id: int, record: ParkedRecord) -> None:
        self._parking.keys[parked_key_id].records.append(record)

    def commit(self) -> None:
        """Apply everything."""
        for change in self._changes:
            change()
