"""The event classes of a service, and publishing."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar, overload
from uuid import UUID

from headwater.bus import REQUEST_SECONDS_DEFAULT, Requests
from headwater.errors import UsageError
from headwater.messages import AppendResult, Event, EventRegistry
from headwater.outbox import Cancellation, DueTime, ScheduledMessage
from headwater.postgres import CallerConnection

if TYPE_CHECKING:
    from headwater.service.service import Service

EventT = TypeVar("EventT", bound=Event)
ReplyT = TypeVar("ReplyT", bound=Event)


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

    @overload
    async def publish(
        self,
        event: str | Event,
        data: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        connection: CallerConnection | None = None,
    ) -> AppendResult: ...
    @overload
    async def publish(
        self,
        event: str | Event,
        data: Mapping[str, Any] | None = None,
        *,
        deliver_at: datetime,
        key: str | None = None,
        connection: CallerConnection | None = None,
    ) -> ScheduledMessage: ...
    @overload
    async def publish(
        self,
        event: str | Event,
        data: Mapping[str, Any] | None = None,
        *,
        deliver_after: timedelta,
        key: str | None = None,
        connection: CallerConnection | None = None,
    ) -> ScheduledMessage: ...
    async def publish(
        self,
        event: str | Event,
        data: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        deliver_at: datetime | None = None,
        deliver_after: timedelta | None = None,
        connection: CallerConnection | None = None,
    ) -> AppendResult | ScheduledMessage:
        """Send a message that is no fact of a stream: an `Event`, or a registered name with data that is checked against its class.

        It goes into an outbox stream of the class's category, in the caller's transaction when given its connection, and from there to Kafka. With
        `deliver_at` or `deliver_after` it waits first, on the database's clock, and is then delivered once by any process of the service; what comes
        back has its `message_id`, to cancel it. Messages of one key that are due at the same moment keep the order in which they were scheduled.

        Args:
            key: messages with the same key keep their order; without one, order is not promised.
            deliver_at: when, aware; a moment that has passed means now. At most 3650 days ahead.
            deliver_after: how long from now.
        Raises:
            UnknownEventType: no event class has this name.
            InvalidEvent: the data does not fit the class; every fault is named.
            UsageError: the moment has no time zone, lies too far ahead, or both ways to say it were used.
            StorageUnavailable: outcome unknown.
        """
        publisher = self._service.open_parts().publisher
        if (due := DueTime.of(deliver_at, deliver_after)) is not None:
            return await publisher.schedule(event, data, due=due, key=key, connection=connection)
        return await publisher.publish(event, data, key=key, connection=connection)

    async def cancel(self, message_id: UUID, *, connection: CallerConnection | None = None) -> Cancellation:
        """Take a message for later back; repeatable. `is_in_time` of what comes back tells whether it will not be delivered.

        Waits for a delivery of this very message that is under way.

        Raises:
            StorageUnavailable: outcome unknown; repeat.
        """
        return await self._service.open_parts().publisher.cancel(message_id, connection=connection)

    async def request(
        self, question: Event, reply: type[ReplyT], *, timeout_seconds: float = REQUEST_SECONDS_DEFAULT, key: str | None = None
    ) -> ReplyT:
        """Ask whoever handles this event, and wait for the reply that its handler gives with `context.reply(…)`.

        The question is published like any other message, at once and in no transaction of the caller's; the reply is kept with the handler's effects, once.
        A reply that comes after the timeout is dropped and counted (`late_reply_count`).

        Args:
            reply: the class of the reply.
            key: questions with one key are handled in the order in which they were asked.
        Raises:
            RequestTimeout: no reply came in time; the question may still be handled.
            UnexpectedReply: the reply is of another class.
            UsageError: the service's workers do not run here (`async with service.connect()`).
            StorageUnavailable: whether the question was published is unknown.
        """
        return await self._requests().request(question, reply, timeout_seconds=timeout_seconds, key=key)

    @property
    def late_reply_count(self) -> int:
        """Replies that came to this process when their caller no longer waited."""
        return self._requests().late_count

    def _requests(self) -> Requests:
        requests = self._service.open_parts().requests
        if requests is None:
            raise UsageError(
                "requests need the workers of the service, which receive the replies; open it with `async with service:`, not service.connect()"
            )
        return requests
