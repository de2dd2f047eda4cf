"""Parked keys: what the owner of their partition keeps in mind of them, and the records that wait."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from headwater.bus.dead_letters import ErrorFacts
from headwater.bus.values import SourceRecord
from headwater.kafka import Envelope, Partition

ParkedRequestKind: TypeAlias = Literal["retry", "skip", "discard"]
"""What a person wants done with the first message of a parked key."""


@dataclass(frozen=True, slots=True)
class ParkedRequest:
    """A decision that waits for the partition's owner."""

    partition: Partition
    parked_key_id: int
    kind: ParkedRequestKind
    requested_at: datetime
    message_id: int
    """The first message when it was made; once another is first, the request has come too late."""


@dataclass(slots=True)
class ParkedKey:
    """One key that one handler waits for. Held in memory by the partition's owner, who alone changes it."""

    handler_name: str
    key: str
    attempts: int
    """At the first message, those that count; 0 where it has yet to be tried."""
    retries: int
    """Attempts after which it was, or stayed, parked."""
    error: ErrorFacts | None
    due_at: float
    """On the monotonic clock."""
    is_stopped: bool = False
    """Nothing happens before a person decides."""
    message_count: int = 1
    parked_key_id: int = 0
    """Given when it is stored."""
    conflicts: int = 0
    """So often in a row something else than the message was at fault."""
    is_alone: bool = False
    """Its messages are tried one in a transaction, for the one at fault among them could not be told."""
    request: ParkedRequest | None = None
    is_in_lane: bool = False
    """It waits for its turn in its handler's lane, or has it."""
    is_orphan: bool = False
    """Its handler is not here: another version of the service has it, or had it. It is left alone, except that a person may skip or discard."""

    def hear(self, request: ParkedRequest, moment: float) -> None:
        """Let what a person decided come next, at a moment on the monotonic clock; a retry without the handler stays asked for."""
        if request.kind == "retry" and self.is_orphan:
            return
        self.request, self.due_at = request, moment

    @property
    def is_waiting(self) -> bool:
        """Whether it is due some time."""
        return not self.is_in_lane and (self.request is not None or not (self.is_stopped or self.is_orphan))


class ParkedRecord(NamedTuple):
    """A record as it came, from where it is parked; it has the shape of a `SourceRecord`."""

    message_id: int
    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


class Follower(NamedTuple):
    """A message that is to wait with, or behind, what is parked."""

    parked: ParkedKey
    record: SourceRecord
    envelope: Envelope


_NOTHING: Final[Mapping[str, ParkedKey]] = MappingProxyType({})


class ParkedKeys:
    """The parked keys of one claimed partition; false while there are none."""

    __slots__ = ("_by_key", "is_full", "message_count")

    def __init__(self, keys: Iterable[ParkedKey] = ()) -> None:
        self._by_key: dict[str, dict[str, ParkedKey]] = {}
        self.message_count = 0
        self.is_full = False
        """Whether that was told."""
        for key in keys:
            self.add(key)

    def __bool__(self) -> bool:
        return bool(self._by_key)

    def __len__(self) -> int:
        return sum(map(len, self._by_key.values()))

    def __iter__(self) -> Iterator[ParkedKey]:
        return (parked for handlers in self._by_key.values() for parked in handlers.values())

    def of(self, key: str) -> Mapping[str, ParkedKey]:
        """What is parked of this key, by the handler's name."""
        return self._by_key.get(key, _NOTHING)

    def add(self, parked: ParkedKey) -> None:
        """It is parked from now on, with as many messages as it says."""
        self._by_key.setdefault(parked.key, {})[parked.handler_name] = parked
        self.message_count += parked.message_count

    def count(self, parked: ParkedKey, change: int) -> None:
        """So many messages more, or fewer, wait; one that nothing waits for any more is free."""
        parked.message_count += change
        self.message_count += change
        if parked.message_count == 0:
            handlers = self._by_key[parked.key]
            del handlers[parked.handler_name]
            if not handlers:
                del self._by_key[parked.key]

    def find(self, parked_key_id: int) -> ParkedKey | None:
        return next((parked for parked in self if parked.parked_key_id == parked_key_id), None)

    def due(self, moment: float) -> list[ParkedKey]:
        """Those whose first message is to be tried now, the longest due first."""
        return sorted((parked for parked in self if parked.is_waiting and parked.due_at <= moment), key=lambda parked: parked.due_at)

    def next_due_at(self) -> float | None:
        """When the next one is due; None when none is."""
        return min((parked.due_at for parked in self if parked.is_waiting), default=None)


def record_of(message_id: int, partition: Partition, offset: int, raw: Mapping[str, Any]) -> ParkedRecord:
    """The record that was kept by `raw_record`."""
    headers = tuple((name, base64.b64decode(value or "")) for name, value in raw["headers"])
    return ParkedRecord(
        message_id, partition.topic, partition.number, offset, raw["timestamp"], _bytes(raw["key"]), _bytes(raw["value"]), headers
    )


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)
