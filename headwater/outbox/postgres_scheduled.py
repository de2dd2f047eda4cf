"""Messages for later in PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final
from uuid import UUID

import orjson

from headwater.errors import NotFoundError
from headwater.messages import NewEvent, prepare
from headwater.outbox.scheduled import Cancellation, DueTime, ScheduledCounts, ScheduledMessage, SealsEvents
from headwater.postgres import CallerConnection, Connection, Database, sql_file, translate_data_errors, translate_errors

STREAMS_CLAIMED_MAX: Final = 60
"""Streams whose messages are claimed at once."""
LIST_SIZE_DEFAULT: Final = 100
DUE_LOOKED_AT_MAX: Final = 300
"""Due messages that one claim looks at for streams that are free."""

_PACKAGE: Final = "headwater.outbox"
_SCHEDULE_MESSAGE = sql_file(_PACKAGE, "schedule_message")
_CANCEL_MESSAGE = sql_file(_PACKAGE, "cancel_message")
_LOCK_DUE_STREAMS = sql_file(_PACKAGE, "lock_due_streams")
_CLAIM_DUE_MESSAGES = sql_file(_PACKAGE, "claim_due_messages")
_REMOVE_MESSAGES = sql_file(_PACKAGE, "remove_messages")
_DELAY_MESSAGE = sql_file(_PACKAGE, "delay_message")
_NEXT_DUE_MESSAGE = sql_file(_PACKAGE, "next_due_message")
_LIST_SCHEDULED = sql_file(_PACKAGE, "list_scheduled")
_COUNT_SCHEDULED = sql_file(_PACKAGE, "count_scheduled")


class PostgresScheduledMessages:
    """`ScheduledMessages` over a `Database` that somebody else opens and closes; `on_schedule` is called after each message that was kept."""

    def __init__(self, database: Database, personal: SealsEvents | None = None, *, on_schedule: Callable[[], None] | None = None) -> None:
        self._database, self._personal, self._on_schedule = database, personal, on_schedule

    async def schedule(
        self, stream_name: str, message: NewEvent, due: DueTime, *, connection: CallerConnection | None = None
    ) -> ScheduledMessage:
        """Keep a message; see `ScheduledMessages.schedule`."""
        sealed = await self._personal.seal([message]) if self._personal is not None else [message]
        (kept,) = prepare(sealed, stream_name=stream_name)
        metadata = orjson.dumps(dict(kept.metadata)).decode()
        after_seconds = None if due.after is None else due.after.total_seconds()
        async with self._on(connection) as own:
            with translate_data_errors():
                due_at = await own.fetchval(
                    _SCHEDULE_MESSAGE, stream_name, kept.type, kept.data, metadata, kept.event_id, due.at, after_seconds, list(kept.tags)
                )
        if self._on_schedule is not None:
            self._on_schedule()
        return ScheduledMessage(kept.event_id, due_at, stream_name, kept.type, kept.data, kept.metadata, None, kept.tags)

    async def cancel(self, message_id: UUID, *, connection: CallerConnection | None = None) -> Cancellation:
        """Take a message back; see `ScheduledMessages.cancel`."""
        async with self._on(connection) as own:
            return Cancellation(await own.fetchval(_CANCEL_MESSAGE, message_id))

    async def claim(self, *, limit: int, connection: CallerConnection) -> Sequence[ScheduledMessage]:
        """Messages that are due; see `ScheduledMessages.claim`."""
        async with self._on(connection) as own:
            streams = await own.fetch(_LOCK_DUE_STREAMS, min(limit, STREAMS_CLAIMED_MAX), DUE_LOOKED_AT_MAX)
            if not streams:
                return ()
            rows = await own.fetch(_CLAIM_DUE_MESSAGES, [row["stream_name"] for row in streams], limit)
        return tuple(_message(row) for row in rows)

    async def remove(self, message_ids: Sequence[UUID], *, connection: CallerConnection) -> None:
        """Forget messages that this transaction claimed."""
        async with self._on(connection) as own:
            await own.execute(_REMOVE_MESSAGES, message_ids)

    async def delay(self, message_id: UUID, error: str, seconds: float) -> int | None:
        """Note that a delivery failed; see `ScheduledMessages.delay`."""
        async with self._database.statement_connection() as own:
            attempts: int | None = await own.fetchval(_DELAY_MESSAGE, message_id, error, seconds)
        return attempts

    async def seconds_to_next(self) -> float | None:
        """How long until one is due; see `ScheduledMessages.seconds_to_next`."""
        async with self._database.statement_connection() as own:
            seconds: float | None = await own.fetchval(_NEXT_DUE_MESSAGE)
        return seconds

    # -- looking -------------------------------------------------------------------------------------------------------

    async def list(
        self, *, event_type: str | None = None, stream_name: str | None = None, only_failing: bool = False, limit: int = LIST_SIZE_DEFAULT
    ) -> tuple[ScheduledMessage, ...]:
        """Messages that wait, the next due first; personal data is sealed."""
        async with self._database.statement_connection() as own:
            rows = await own.fetch(_LIST_SCHEDULED, None, event_type, stream_name, only_failing, limit)
        return tuple(_message(row) for row in rows)

    async def get(self, message_id: UUID) -> ScheduledMessage:
        """One that waits.

        Raises:
            NotFoundError: none of this id does.
        """
        async with self._database.statement_connection() as own:
            rows = await own.fetch(_LIST_SCHEDULED, message_id, None, None, False, 1)
        if not rows:
            raise NotFoundError(
                f"no message {message_id} waits: it was delivered or cancelled, or there never was one; list them with: headwater scheduled list"
            )
        return _message(rows[0])

    async def count(self, *, event_type: str | None = None, stream_name: str | None = None) -> ScheduledCounts:
        """How many wait."""
        async with self._database.statement_connection() as own:
            row = await own.fetchrow(_COUNT_SCHEDULED, event_type, stream_name)
        assert row is not None, "it returns one row"
        return ScheduledCounts(*row)

    @asynccontextmanager
    async def _on(self, connection: CallerConnection | None) -> AsyncGenerator[Connection]:
        if connection is None:
            async with self._database.statement_connection() as own:
                yield own
        else:
            driver = await self._database.joined(connection)
            with translate_errors():
                yield driver


def _message(row: Any) -> ScheduledMessage:
    return ScheduledMessage(
        message_id=row["message_id"],
        due_at=row["due_at"],
        stream_name=row["stream_name"],
        type=row["type"],
        data=row["data"],
        metadata=orjson.loads(row["metadata"]),
        scheduled_at=row["scheduled_at"],
        tags=tuple(row["tags"]),
        attempts=row["attempts"],
        error=row["error"],
        retry_at=row["retry_at"],
    )
