"""Parked keys in PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final

import orjson

from headwater.bus.dead_letters import ErrorFacts, raw_record, storable
from headwater.bus.parked import Follower, ParkedKey, ParkedRecord, ParkedRequest, record_of
from headwater.bus.values import PartitionPosition
from headwater.kafka import Partition
from headwater.postgres import Connection, sql_file

_PACKAGE: Final = "headwater.bus"
_CONFIRM_CLAIM = sql_file(_PACKAGE, "confirm_claim")
_INSERT_PARKED_KEY = sql_file(_PACKAGE, "insert_parked_key")
_INSERT_PARKED_MESSAGES = sql_file(_PACKAGE, "insert_parked_messages")
_LOAD_PARKED_KEYS = sql_file(_PACKAGE, "load_parked_keys")
_LIST_PARKED_REQUESTS = sql_file(_PACKAGE, "list_parked_requests")
_READ_PARKED_MESSAGES = sql_file(_PACKAGE, "read_parked_messages")
_DELETE_PARKED_MESSAGES = sql_file(_PACKAGE, "delete_parked_messages")
_UPDATE_PARKED_KEY = sql_file(_PACKAGE, "update_parked_key")
_DELETE_PARKED_KEY = sql_file(_PACKAGE, "delete_parked_key")


class PostgresParkedRows:
    """`ParkedRows` on the connection of one transaction."""

    def __init__(
        self, connection: Connection, machinery: Callable[[], AbstractContextManager[None]], require_open: Callable[[], None]
    ) -> None:
        """`machinery` goes around statements that are ours, and says what their errors mean."""
        self._connection, self._machinery, self._require_open = connection, machinery, require_open

    async def hold(self, group: str, claimed: PartitionPosition) -> bool:
        """Whether the partition is still ours; see `ParkedRows.hold`."""
        with self._machinery():
            self._require_open()
            return await self._connection.fetchrow(_CONFIRM_CLAIM, group, *claimed.partition, claimed.epoch) is not None

    async def open(self, group: str, partition: Partition, parked: ParkedKey, due_in_seconds: float) -> int:
        """Park a key; see `ParkedRows.open`."""
        with self._machinery():
            return int(
                await self._connection.fetchval(
                    _INSERT_PARKED_KEY, group, parked.handler_name, *partition, parked.key, *_state(parked, due_in_seconds)
                )
            )

    async def add(self, followers: Sequence[Follower]) -> None:
        """Let messages wait; see `ParkedRows.add`."""
        events = [follower.envelope.event for follower in followers]
        with self._machinery():
            await self._connection.execute(
                _INSERT_PARKED_MESSAGES,
                [follower.parked.parked_key_id for follower in followers],
                [follower.record.offset for follower in followers],
                [event.event_id for event in events],
                [storable(event.type) for event in events],
                [event.version for event in events],
                [follower.envelope.log_id for follower in followers],
                [str(follower.envelope.position) for follower in followers],
                [orjson.dumps(raw_record(follower.record)).decode() for follower in followers],
            )

    async def read(self, parked: ParkedKey, partition: Partition, limit: int) -> Sequence[ParkedRecord]:
        """Its first messages; see `ParkedRows.read`."""
        with self._machinery():
            rows = await self._connection.fetch(_READ_PARKED_MESSAGES, parked.parked_key_id, limit)
        return [record_of(row["parked_message_id"], partition, row["record_offset"], orjson.loads(row["raw"])) for row in rows]

    async def remove(self, message_ids: Sequence[int]) -> None:
        """These wait no more."""
        if message_ids:
            with self._machinery():
                await self._connection.execute(_DELETE_PARKED_MESSAGES, message_ids)

    async def update(self, parked: ParkedKey, due_in_seconds: float, request: ParkedRequest | None) -> None:
        """Keep what is known of its first message; see `ParkedRows.update`."""
        with self._machinery():
            requested_at = request.requested_at if request is not None else None
            await self._connection.execute(_UPDATE_PARKED_KEY, parked.parked_key_id, *_state(parked, due_in_seconds), requested_at)

    async def close(self, parked: ParkedKey) -> None:
        """Nothing waits for it any more."""
        with self._machinery():
            await self._connection.execute(_DELETE_PARKED_KEY, parked.parked_key_id)


async def load_parked_keys(connection: Connection, group: str, partition: Partition, monotonic: float) -> list[ParkedKey]:
    """What is parked of a partition; see `EffectStore.parked_keys`."""
    rows = await connection.fetch(_LOAD_PARKED_KEYS, group, *partition)
    return [
        ParkedKey(
            handler_name=row["handler_name"],
            key=row["message_key"],
            attempts=row["attempts"],
            retries=row["retries"],
            error=error_facts_of(row),
            due_at=monotonic + max(0.0, row["due_in_seconds"]),
            is_stopped=row["status"] == "stopped",
            message_count=row["message_count"],
            parked_key_id=row["parked_key_id"],
        )
        for row in rows
    ]


async def load_parked_requests(connection: Connection, group: str, partitions: Sequence[Partition]) -> list[ParkedRequest]:
    """What people want done; see `EffectStore.parked_requests`."""
    topics, numbers = [partition.topic for partition in partitions], [partition.number for partition in partitions]
    rows = await connection.fetch(_LIST_PARKED_REQUESTS, group, topics, numbers)
    return [
        ParkedRequest(
            Partition(row["topic"], row["partition"]), row["parked_key_id"], row["request"], row["requested_at"], row["requested_for"]
        )
        for row in rows
    ]


def error_facts_of(row: Any) -> ErrorFacts | None:
    """The error that a row holds; None where the first message has yet to be tried."""
    if row["error_type"] is None:
        return None
    return ErrorFacts(row["error_type"], row["error_message"], row["traceback"], row["first_failed_at"], row["last_failed_at"])


def _state(parked: ParkedKey, due_in_seconds: float) -> tuple[Any, ...]:
    error = parked.error
    return (
        "stopped" if parked.is_stopped else "waiting",
        due_in_seconds,
        parked.attempts,
        parked.retries,
        *(
            (error.error_type, error.error_message, error.traceback, error.first_failed_at, error.last_failed_at)
            if error is not None
            else (None,) * 5
        ),
    )
