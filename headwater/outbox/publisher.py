"""Messages that are no domain events: appended to outbox streams of the log, relayed like everything else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from headwater.errors import UsageError
from headwater.eventstore import EventStore
from headwater.messages import ANY, AppendResult, Event, EventRegistry, NewEvent
from headwater.postgres import CallerConnection
from headwater.tracing import producer_span

OUTBOX_BUCKETS: Final = 16
"""Streams that messages without a key are spread over, so that concurrent publishers do not queue for one stream's row."""


class Publisher:
    """Publishes by name and data, or an event, in the caller's transaction if there is one."""

    def __init__(self, store: EventStore, registry: EventRegistry) -> None:
        self._store, self._registry = store, registry

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
            return await self._publish(event, data, key, connection)

    async def _publish(
        self, event: str | Event, data: Mapping[str, Any] | None, key: str | None, connection: CallerConnection | None
    ) -> AppendResult:
        if isinstance(event, Event):
            if data is not None:
                raise UsageError(f"publish({event.event_type}(…), data) has data twice; give an event, or a name and data")
            message = NewEvent.of(event)
        else:
            message = NewEvent.of(self._registry.build(event, data or {}))
        assert message.category is not None, "an event's class has a category"
        stream_name = outbox_stream(message.category, key=key, event_id=message.event_id)
        return await self._store.append(stream_name, [message], expected_version=ANY, connection=connection)


def outbox_stream(category: str, *, key: str | None, event_id: UUID) -> str:
    """The stream of a message: of its key, or one of a few buckets."""
    return f"{category}-outbox:{key if key is not None else f'{event_id.int % OUTBOX_BUCKETS:02d}'}"
