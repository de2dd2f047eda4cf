"""Where people look at parked keys, and leave requests that the owners of their partitions carry out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias
from uuid import UUID

import orjson

from headwater.bus.dead_letters import ErrorFacts
from headwater.bus.parked import ParkedRequestKind
from headwater.bus.postgres import LIST_SIZE_DEFAULT
from headwater.bus.postgres_parked import error_facts_of
from headwater.errors import NotFoundError
from headwater.kafka import Partition
from headwater.messages import LogPosition
from headwater.postgres import Database, sql_file

_PACKAGE: Final = "headwater.bus"
_SELECT_PARKED_KEYS = sql_file(_PACKAGE, "select_parked_keys")
_COUNT_SELECTED_PARKED_KEYS = sql_file(_PACKAGE, "count_selected_parked_keys")
_LIST_PARKED_MESSAGES = sql_file(_PACKAGE, "list_parked_messages")
_REQUEST_PARKED_KEYS = sql_file(_PACKAGE, "request_parked_keys")

ParkedStatus: TypeAlias = Literal["waiting", "stopped"]
"""`waiting` for its next attempt, or `stopped` until a person decides."""
PARKED_STATUSES: Final[tuple[ParkedStatus, ...]] = ("waiting", "stopped")


@dataclass(frozen=True, slots=True)
class ParkedFilter:
    """Which parked keys are meant; what is None leaves out nothing."""

    ids: tuple[int, ...] | None = None
    group: str | None = None
    handler_name: str | None = None
    event_type: str | None = None
    """Of the first message."""
    key: str | None = None
    """The stream's name."""
    statuses: tuple[ParkedStatus, ...] = PARKED_STATUSES

    @property
    def is_everything(self) -> bool:
        """Whether nothing but the status narrows it down."""
        return (self.ids, self.group, self.handler_name, self.event_type, self.key) == (None,) * 5


@dataclass(frozen=True, slots=True)
class ParkedEvent:
    """One message that is parked, without its content."""

    message_id: int
    offset: int
    event_id: UUID
    event_type: str
    version: int
    position: LogPosition
    parked_at: datetime


@dataclass(frozen=True, slots=True)
class KeptKey:
    """A parked key, with its first message."""

    parked_key_id: int
    group: str
    handler_name: str
    partition: Partition
    key: str
    status: ParkedStatus
    due_at: datetime
    """When the first message is tried again; of no meaning while the key is stopped."""
    attempts: int
    error: ErrorFacts | None
    """None where the first message has yet to be tried."""
    parked_at: datetime
    request: ParkedRequestKind | None
    """What somebody asked for and its partition's owner has yet to carry out."""
    requested_at: datetime | None
    message_count: int
    offset: int
    event_id: UUID
    event_type: str
    version: int
    log_id: UUID
    position: LogPosition
    raw: Mapping[str, Any]
    """Key, value and headers (base64) of the first message's record, and its timestamp; personal data is sealed."""


class ParkedDesk:
    """Decisions about the parked keys of one database. They are requests: a running service of the group carries them out within a second or so."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(self, chosen: ParkedFilter, *, limit: int = LIST_SIZE_DEFAULT, after: int = 0) -> tuple[KeptKey, ...]:
        """The oldest keys that the filter finds, of those whose id is above `after`."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(_SELECT_PARKED_KEYS, *_arguments(chosen), after, limit)
        return tuple(_kept_key(row) for row in rows)

    async def count(self, chosen: ParkedFilter) -> int:
        """How many keys the filter finds."""
        async with self._database.connection() as connection:
            return int(await connection.fetchval(_COUNT_SELECTED_PARKED_KEYS, *_arguments(chosen)))

    async def get(self, parked_key_id: int) -> KeptKey:
        """One key.

        Raises:
            NotFoundError: there is none of this id, or not any more.
        """
        found = await self.list(ParkedFilter(ids=(parked_key_id,)), limit=1)
        if not found:
            raise NotFoundError(f"there is no parked key {parked_key_id} (any more); list them with: headwater dead-letters list --parked")
        return found[0]

    async def messages(self, parked_key_id: int, *, limit: int = LIST_SIZE_DEFAULT) -> tuple[ParkedEvent, ...]:
        """What waits, in order, the first message included."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(_LIST_PARKED_MESSAGES, parked_key_id, limit)
        return tuple(
            ParkedEvent(
                row["parked_message_id"],
                row["record_offset"],
                row["event_id"],
                row["event_type"],
                row["version"],
                LogPosition.parse(row["log_position"]),
                row["parked_at"],
            )
            for row in rows
        )

    async def retry(self, ids: Sequence[int]) -> frozenset[int]:
        """Ask for an attempt at the first message now, whatever its delay, also where the key is stopped; returns those that are still parked."""
        return await self._request(ids, "retry")

    async def skip(self, ids: Sequence[int]) -> frozenset[int]:
        """Ask to make the first message a dead letter that is settled as skipped; those behind it go on. Returns those that are still parked."""
        return await self._request(ids, "skip")

    async def discard(self, ids: Sequence[int]) -> frozenset[int]:
        """Ask to remove the first message for good; those behind it go on. Returns those that are still parked."""
        return await self._request(ids, "discard")

    async def _request(self, ids: Sequence[int], kind: ParkedRequestKind) -> frozenset[int]:
        async with self._database.connection() as connection:
            rows = await connection.fetch(_REQUEST_PARKED_KEYS, ids, kind)
        return frozenset(row["parked_key_id"] for row in rows)


def _arguments(chosen: ParkedFilter) -> tuple[Any, ...]:
    return chosen.ids, chosen.group, chosen.handler_name, chosen.event_type, chosen.key, chosen.statuses


def _kept_key(row: Any) -> KeptKey:
    return KeptKey(
        parked_key_id=row["parked_key_id"],
        group=row["group_name"],
        handler_name=row["handler_name"],
        partition=Partition(row["topic"], row["partition"]),
        key=row["message_key"],
        status=row["status"],
        due_at=row["due_at"],
        attempts=row["attempts"],
        error=error_facts_of(row),
        parked_at=row["parked_at"],
        request=row["request"],
        requested_at=row["requested_at"],
        message_count=row["message_count"],
        offset=row["record_offset"],
        event_id=row["event_id"],
        event_type=row["event_type"],
        version=row["version"],
        log_id=row["log_id"],
        position=LogPosition.parse(row["log_position"]),
        raw=orjson.loads(row["raw"]),
    )
