"""Messages that are no domain events: appended to outbox streams of the log, relayed like everything else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from headwater.errors import UsageError
from headwater.eventstore import EventStore
from headwater.messages import ANY, AppendResult, Event, EventRegistry, NewEvent
from headwater.outbox.scheduled import Cancellation, DueTime, ScheduledMessage, ScheduledMessages
from headwater.postgres import CallerConnection
from headwater.tracing import producer_span

OUTBOX_BUCKETS: Final = 16
"""Streams that messages without a key are spread over, so that concurrent publishers do not queue for one stream's row."""


class Publisher:
    """Publishes by name and data, or an event, in the caller's transaction if there is one."""

    def __init__(self, store: EventStore, registry: EventRegistry, *, scheduled: ScheduledMessages | None = None) -> None:
        """Append to this store; `scheduled` keeps messages for later."""
        self._store, self._registry, self._scheduled = store, registry, scheduled

    async def publish(
        self,
        event: str | Event,
        data: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        connection: CallerConnection | None = None,
    ) -> AppendResult:
        """Store a message; the relay sends it to the topic of its category once it is committed.

        Messages with the same key keep their order; those without one come in any order.

        Args:
            event: an event, or the name of its class with the `data` it is made of.
            key: what must keep its order, like an order's number.
            connection: publish in this transaction; see `EventStore.append`.

        Returns:
            Where it stands in the log.

        Raises:
            UnknownEventType: no class of this name is known.
            InvalidEvent: the data does not fit the class; every fault is named.
            StorageUnavailable: outcome unknown; publishing again may store it twice.
        """
        with producer_span("publish", event if isinstance(event, str) else event.event_type):
            message, stream_name = self._outgoing(event, data, key)
            return await self._store.append(stream_name, [message], expected_version=ANY, connection=connection)

    async def schedule(
        self,
        event: str | Event,
        data: Mapping[str, Any] | None = None,
        *,
        due: DueTime,
        key: str | None = None,
        connection: CallerConnection | None = None,
    ) -> ScheduledMessage:
        """Keep a message and publish it when it is due, once; the rest as `publish`.

        Messages with the same key that are due at the same moment are published in the order in which they were scheduled.

        Raises:
            UsageError: it is due too far ahead, or nothing here keeps messages for later.
        """
        message, stream_name = self._outgoing(event, data, key)
        return await self._keeper().schedule(stream_name, message, due, connection=connection)

    async def cancel(self, message_id: UUID, *, connection: CallerConnection | None = None) -> Cancellation:
        """Take a scheduled message back; see `ScheduledMessages.cancel`."""
        return await self._keeper().cancel(message_id, connection=connection)

    def _outgoing(self, event: str | Event, data: Mapping[str, Any] | None, key: str | None) -> tuple[NewEvent, str]:
        if isinstance(event, Event):
            if data is not None:
                raise UsageError(f"publish({event.event_type}(…), data) has data twice; give an event, or a name and data")
            message = NewEvent.of(event)
        else:
            message = NewEvent.of(self._registry.build(event, data or {}))
        assert message.category is not None, "an event's class has a category"
        return message, outbox_stream(message.category, key=key, event_id=message.event_id)

    def _keeper(self) -> ScheduledMessages:
        if self._scheduled is None:
            raise UsageError("this publisher keeps no messages for later; give it a place: Publisher(store, registry, scheduled=...)")
        return self._scheduled


def outbox_stream(category: str, *, key: str | None, event_id: UUID) -> str:
    """The stream of a message: of its key, or one of a few buckets."""
    return f"{category}-outbox:{key if key is not None else f'{event_id.int % OUTBOX_BUCKETS:02d}'}"
