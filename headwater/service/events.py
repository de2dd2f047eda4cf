"""The event classes of a service, and publishing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from headwater.messages import AppendResult, Event, EventRegistry
from headwater.postgres import CallerConnection

if TYPE_CHECKING:
    from headwater.service.service import Service

EventT = TypeVar("EventT", bound=Event)


class ServiceEvents:
    """The event classes a service knows, and publishing."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.registry = EventRegistry()

    def register(self, event_class: type[EventT]) -> type[EventT]:
        """Make this class the meaning of its name in this service, and have its schema checked and published when the service starts.

        Needed only where two imported classes share a name: handlers, sagas and projections register what they take, and the schema of another
        class is published when the relay meets its first event, which takes a moment.
        """
        return self.registry.register(event_class)

    async def publish(
        self,
        event: str | Event,
        data: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        connection: CallerConnection | None = None,
    ) -> AppendResult:
        """Send a message that is no fact of a stream: an `Event`, or a registered name with data that is checked against its class.

        It goes into an outbox stream of the class's category, in the caller's transaction when given its connection, and from there to Kafka.

        Args:
            key: messages with the same key keep their order; without one, order is not promised.
        Raises:
            UnknownEventType: no event class has this name.
            InvalidEvent: the data does not fit the class; every fault is named.
            StorageUnavailable: outcome unknown.
        """
        return await self._service.open_parts().publisher.publish(event, data, key=key, connection=connection)
