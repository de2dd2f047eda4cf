"""What a handler may do beside its own work, all of it inside the effect's transaction."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Protocol, overload
from uuid import UUID, uuid5

from headwater.bus.replies import expects_reply, reply_of
from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.errors import UsageError
from headwater.kafka import Envelope
from headwater.messages import (
    ANY,
    IDEMPOTENCY_KEY,
    AppendResult,
    Event,
    EventRegistry,
    ExpectedVersion,
    LogPosition,
    Metadata,
    NewEvent,
    RecordedEvent,
)
from headwater.metrics import NO_METRICS, Metrics
from headwater.outbox import Cancellation, DueTime, ScheduledMessage
from headwater.postgres import CallerConnection, Connection
from headwater.privacy import REDACTING, OpensEvents
from headwater.tracing import producer_span

_KEYS: Final = UUID("0199a5f0-7c1e-7d44-8a4b-3e9d2a6c5b10")
"""The namespace of handlers' idempotency keys."""

if TYPE_CHECKING:
    from headwater.bus.ports import EffectTransaction


class PublishesEvents(Protocol):
    """What is used of `headwater.outbox.Publisher`."""

    async def publish(
        self,
        event: str | Event,
        data: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        connection: CallerConnection | None = None,
    ) -> AppendResult: ...
    async def schedule(
        self,
        event: str | Event,
        data: Mapping[str, Any] | None = None,
        *,
        due: DueTime,
        key: str | None = None,
        connection: CallerConnection | None = None,
    ) -> ScheduledMessage: ...
    async def cancel(self, message_id: UUID, *, connection: CallerConnection | None = None) -> Cancellation: ...


@dataclass(frozen=True, slots=True)
class HandlerSurroundings:
    """What all handlers of a consumer share."""

    group: str
    publisher: PublishesEvents | None = None
    registry: EventRegistry = EventRegistry()  # noqa: RUF009 - an empty one holds nothing that could be shared by mistake
    clock: Clock = SYSTEM_CLOCK
    personal: OpensEvents = REDACTING
    """Opens the personal data of messages."""
    metrics: Metrics = NO_METRICS


class EffectContext:
    """A handler's way into its transaction; good until the handler returns."""

    __slots__ = ("_handler_name", "_surroundings", "_transaction")

    def __init__(self, surroundings: HandlerSurroundings, transaction: EffectTransaction, handler_name: str) -> None:
        self._surroundings = surroundings
        self._transaction: EffectTransaction | None = transaction
        self._handler_name = handler_name

    async def append(
        self, stream_name: str, events: Event | NewEvent | Sequence[Event | NewEvent], *, expected_version: ExpectedVersion = ANY
    ) -> AppendResult:
        """Add one event or several to the end of a stream; stored if and only if the message's effects are.

        A message's events carry its correlation id, and its event id as their cause.

        Raises:
            WrongExpectedVersion: the stream is elsewhere; left to itself, the message is tried again.
            InvalidEvent, InvalidStreamName, UsageError: refused input.
        """
        several = (events,) if isinstance(events, (Event, NewEvent)) else events
        with producer_span("append", stream_name, several):
            return await self._open_transaction().append(stream_name, several, expected_version=expected_version)

    @overload
    async def publish(self, event: str | Event, data: Mapping[str, Any] | None = None, *, key: str | None = None) -> AppendResult: ...
    @overload
    async def publish(
        self, event: str | Event, data: Mapping[str, Any] | None = None, *, deliver_at: datetime, key: str | None = None
    ) -> ScheduledMessage: ...
    @overload
    async def publish(
        self, event: str | Event, data: Mapping[str, Any] | None = None, *, deliver_after: timedelta, key: str | None = None
    ) -> ScheduledMessage: ...
    async def publish(
        self,
        event: str | Event,
        data: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        deliver_at: datetime | None = None,
        deliver_after: timedelta | None = None,
    ) -> AppendResult | ScheduledMessage:
        """Send a message that is no fact of a stream, now or later, if and only if this message's effects are kept; see `ServiceEvents.publish`."""
        publisher, joining = self._publisher(), self._open_transaction().joining
        if (due := DueTime.of(deliver_at, deliver_after)) is not None:
            return await publisher.schedule(event, data, due=due, key=key, connection=joining)
        return await publisher.publish(event, data, key=key, connection=joining)

    async def cancel(self, message_id: UUID) -> Cancellation:
        """Take a message for later back, if and only if this message's effects are kept; see `ServiceEvents.cancel`."""
        return await self._publisher().cancel(message_id, connection=self._open_transaction().joining)

    def read_stream(
        self, stream_name: str, *, from_version: int | None = None, backwards: bool = False, limit: int | None = None
    ) -> AsyncIterator[RecordedEvent]:
        """The stream's events, as this transaction sees them; see `EventStore.read_stream`."""
        return self._open_transaction().read_stream(stream_name, from_version=from_version, backwards=backwards, limit=limit)

    def decode(self, recorded: RecordedEvent) -> Event:
        """The typed event of one that was read.

        Raises:
            UnknownEventType, InvalidEvent: see `EventRegistry.decode`.
        """
        return self._surroundings.registry.decode(recorded)

    @property
    def connection(self) -> Connection:
        """The asyncpg connection in the transaction that commits effects and position together. Neither commit nor roll it back.

        Raises:
            UsageError: in memory, where there is none.
        """
        return self._open_transaction().connection

    def now(self) -> datetime:
        """The current moment, from the clock that tests can hold."""
        return self._surroundings.clock.now()

    def _publisher(self) -> PublishesEvents:
        publisher = self._surroundings.publisher
        if publisher is None:
            raise UsageError("this consumer has no publisher; give it one: Consumer(..., publisher=Publisher(store, registry))")
        return publisher

    def close(self) -> None:
        """The handler returned: whatever it left running must not act in the next message's transaction."""
        self._transaction = None

    def _open_transaction(self) -> EffectTransaction:
        if self._transaction is None:
            raise UsageError(f"the context of {self._handler_name} was used after the handler returned; await everything inside it")
        return self._transaction


class Context(EffectContext):
    """The message at hand and its transaction; good until the handler returns."""

    __slots__ = ("_envelope", "_has_replied")

    def __init__(self, surroundings: HandlerSurroundings, transaction: EffectTransaction, envelope: Envelope, handler_name: str) -> None:
        super().__init__(surroundings, transaction, handler_name)
        self._envelope = envelope
        self._has_replied = False

    async def reply(self, event: Event) -> AppendResult:
        """Answer the question that this message is, if and only if this message's effects are kept; see `ServiceEvents.request`.

        Raises:
            UsageError: nobody asked (`expects_reply` tells), or this handler has replied already.
        """
        transaction = self._open_transaction()
        if self._has_replied:
            raise UsageError(f"{self._handler_name} has replied already; a question has one reply")
        stream_name, message = reply_of(self._envelope.event, event, answered_by=f"{self._surroundings.group}/{self._handler_name}")
        result = await transaction.append(stream_name, [message], expected_version=ANY)
        self._has_replied = True
        return result

    @property
    def expects_reply(self) -> bool:
        """Whether somebody waits for a reply to this message."""
        return expects_reply(self._envelope.event.metadata)

    @property
    def metadata(self) -> Metadata:
        """What the event's writer put beside the data."""
        return self._envelope.event.metadata

    @property
    def event_id(self) -> UUID:
        return self._envelope.event.event_id

    @property
    def stream_name(self) -> str:
        return self._envelope.event.stream_name

    @property
    def version(self) -> int:
        """The event's place in its stream."""
        return self._envelope.event.version

    @property
    def position(self) -> LogPosition:
        """The event's place in the log that it comes from."""
        return self._envelope.position

    @property
    def log_id(self) -> UUID:
        return self._envelope.log_id

    @property
    def recorded(self) -> RecordedEvent:
        """The event as it was stored."""
        return self._envelope.event

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt at this message by this handler, and for no other: give it to systems outside this database.

        A message that its sender may send again carries a key of its own in the metadata, as a saga's commands do: then it is the same for
        every one of them.
        """
        event = self._envelope.event
        sent = event.metadata.get(IDEMPOTENCY_KEY) or str(event.event_id)
        return str(uuid5(_KEYS, f"{sent}/{self._surroundings.group}/{self._handler_name}"))


class BatchContext(EffectContext):
    """What a handler of many events at once is given beside them: their one transaction.

    Events appended here carry no correlation, for nobody knows which of the many caused them; give them one in their metadata where it matters.
    """

    __slots__ = ("_recorded",)

    def __init__(
        self, surroundings: HandlerSurroundings, transaction: EffectTransaction, recorded: Sequence[RecordedEvent], handler_name: str
    ) -> None:
        super().__init__(surroundings, transaction, handler_name)
        self._recorded = recorded

    @property
    def recorded(self) -> Sequence[RecordedEvent]:
        """The events as they were stored, in the order of the list."""
        return self._recorded
