"""Handlers at work: many messages in one transaction, or one message with every handler guarded."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Final

from headwater.bus.context import BatchContext, Context, EffectContext, HandlerSurroundings
from headwater.bus.dead_letters import DeadLetter, unreadable
from headwater.bus.failing import HandlerFault
from headwater.bus.parked import Follower, ParkedKey
from headwater.bus.partition_work import Message
from headwater.bus.ports import EffectsRefused, EffectTransaction
from headwater.bus.retries import BatchFault
from headwater.bus.routes import Handler
from headwater.bus.values import ConsumerLimits
from headwater.errors import (
    HandlerFailed,
    InvalidEvent,
    SchemaError,
    StorageUnavailable,
    TransactionConflict,
    UnknownEventType,
    WrongExpectedVersion,
)
from headwater.messages import TRACEPARENT, Event, RecordedEvent
from headwater.metrics import HandlerTimes
from headwater.telemetry import Correlation, correlate
from headwater.tracing import consumer_span, is_on

NOT_THE_MESSAGE: Final = (StorageUnavailable, TransactionConflict, WrongExpectedVersion)
"""Failures for which the message is not to blame: they are waited out and do not count."""


@dataclass(slots=True)
class BatchOutcome:
    """What became of a batch inside its transaction."""

    done: int = 0
    """So many messages, from the first, are ready to commit."""
    handled: int = 0
    """Those of them that had handlers."""
    followers: list[Follower] = field(default_factory=list[Follower])
    """Of these messages, for one handler each, that wait behind a parked key."""
    unreadable: int = 0
    """Those of them that no relay wrote."""


class MessageHandling:
    """Runs handlers in a transaction that somebody else opens and commits."""

    def __init__(self, surroundings: HandlerSurroundings, limits: ConsumerLimits) -> None:
        self._surroundings, self._limits = surroundings, limits
        self._is_traced = False
        self.times: Final = HandlerTimes(surroundings.metrics, surroundings.clock, surroundings.group)

    async def handle_batch(self, transaction: EffectTransaction, messages: Sequence[Message]) -> BatchOutcome:
        """Give every message to its handlers, until all are done or the batch has taken long enough; those of many events come last.

        Raises:
            HandlerFault: one failed; the transaction must be rolled back.
            BatchFault: one of many events failed; the same.
            StorageUnavailable: the keys of personal data cannot be asked for.
        """
        await self._open(messages)
        outcome = BatchOutcome()
        letters: list[DeadLetter] = []
        try:
            async with asyncio.timeout(self._limits.batch_seconds_max + self._limits.handler_seconds_max):
                gathered = await self._handle_each(transaction, messages, outcome, letters)
        except TimeoutError as error:
            # The loop is written so that only our own timeout gets here.
            raise self._too_slow(messages[outcome.done], outcome.done) from error
        for handler, indexes in gathered:
            await self._handle_many(transaction, messages, indexes, handler)
        if letters:
            await transaction.bury(letters)
        if outcome.followers:
            await transaction.parked.add(outcome.followers)
        return outcome

    async def _handle_each(
        self, transaction: EffectTransaction, messages: Sequence[Message], outcome: BatchOutcome, letters: list[DeadLetter]
    ) -> Iterable[tuple[Handler, list[int]]]:
        """Handlers of one event get theirs; returns those of many, with the indexes of what they are to be given."""
        clock = self._surroundings.clock
        deadline = clock.monotonic() + self._limits.batch_seconds_max
        gathered: dict[str, tuple[Handler, list[int]]] = {}
        for message in messages:
            if handlers := message.handlers:
                if message.work.parked and (held := message.held_back()):
                    outcome.followers += followers_of(message, held.values())
                    handlers = tuple(handler for handler in handlers if handler.name not in held)
                if single := [handler for handler in handlers if not handler.takes_batch]:
                    await self._handle(transaction, message, single, outcome.done)
                for handler in handlers:
                    if handler.takes_batch:
                        gathered.setdefault(handler.name, (handler, []))[1].append(outcome.done)
                outcome.handled += 1
            elif message.fault is not None:
                outcome.unreadable += 1
                letters.append(unreadable(self._surroundings.group, message.work.partition, message.record, message.fault, clock.now()))
            outcome.done += 1
            if message.handlers and clock.monotonic() > deadline:
                break
        return gathered.values()

    async def _handle(self, transaction: EffectTransaction, message: Message, handlers: Sequence[Handler], index: int) -> None:
        with correlate(correlation_of(message)):
            for handler in handlers:
                await self._call(transaction, [message], [self.event_for(handler, message, index)], handler, index)

    async def _handle_many(
        self, transaction: EffectTransaction, messages: Sequence[Message], indexes: Sequence[int], handler: Handler
    ) -> None:
        chosen, first = [messages[index] for index in indexes], indexes[0]
        events = [self.event_for(handler, messages[index], index) for index in indexes]
        try:
            try:
                async with asyncio.timeout(self._limits.handler_seconds_max):
                    with correlate(correlation_of(chosen[0])) if len(chosen) == 1 else nullcontext():
                        await self._call(transaction, chosen, events, handler, first)
            except TimeoutError as error:
                raise self._too_slow(chosen[0], first, handler) from error
        except HandlerFault as fault:
            if len(chosen) == 1:
                raise
            raise BatchFault(handler.name, fault.error, len(chosen)) from fault.error

    async def handle_guarded(self, transaction: EffectTransaction, message: Message, handler: Handler) -> None:
        """Give one message to one handler, undoing what it did when it fails.

        Raises:
            HandlerFault: it failed; the transaction can go on.
            StorageUnavailable: the keys of its personal data cannot be asked for.
        """
        await self._open([message])
        event = self.event_for(handler, message, 0)
        try:
            async with transaction.savepoint():
                try:
                    # Inside the savepoint, so that what is cut off is undone like what fails.
                    async with asyncio.timeout(self._limits.handler_seconds_max):
                        with correlate(correlation_of(message)):
                            await self._call(transaction, [message], [event], handler, 0)
                except TimeoutError as error:
                    raise self._too_slow(message, 0, handler) from error
        except EffectsRefused as error:
            raise HandlerFault(0, handler.name, error) from error

    async def handle_alone(self, transaction: EffectTransaction | None, message: Message, handler: Handler) -> None:
        """Give one message to one handler, in a transaction of their own, or in none where the handler takes no context.

        Raises:
            HandlerFault: it failed; the transaction, if any, must be rolled back.
            StorageUnavailable: the keys of its personal data cannot be asked for.
        """
        await self._open([message])
        event = self.event_for(handler, message, 0)
        try:
            async with asyncio.timeout(self._limits.handler_seconds_max):
                with correlate(correlation_of(message)):
                    await self._call(transaction, [message], [event], handler, 0)
        except TimeoutError as error:
            raise self._too_slow(message, 0, handler) from error

    async def _open(self, messages: Sequence[Message]) -> None:
        """Open the personal data of those that have some; one that was altered is left closed, for `event_for` to tell."""
        self._is_traced = is_on()
        sealed = [message for message in messages if message.is_sealed]
        if not sealed:
            return
        opener = await self._surroundings.personal.opener([message.envelope.event for message in sealed if message.envelope is not None])
        for message in sealed:
            message.open_with(opener)

    def event_for(self, handler: Handler, message: Message, index: int) -> Event | RecordedEvent:
        """The event as the handler takes it.

        Raises:
            HandlerFault: it cannot be read, has no class here or does not fit it, and trying again changes nothing.
        """
        try:
            return message.recorded() if handler.takes_recorded else message.event()
        except (InvalidEvent, SchemaError, UnknownEventType) as error:
            raise HandlerFault(index, handler.name, error, is_permanent=True) from error

    async def _call(
        self,
        transaction: EffectTransaction | None,
        messages: Sequence[Message],
        events: list[Event | RecordedEvent],
        handler: Handler,
        index: int,
    ) -> None:
        """Give the handler its event, or all of them where it takes a list; what goes wrong is the fault of the message at the index."""
        begun_at = self.times.begin() if self.times.is_wanted else 0.0
        try:
            if self._is_traced:
                with self._span(messages, handler):
                    await self._run(transaction, messages, events, handler)
            else:
                await self._run(transaction, messages, events, handler)
        except asyncio.CancelledError as error:
            if _is_being_cancelled():
                raise
            raise self._shone_through(handler, index) from error
        except Exception as error:
            raise self._fault(transaction, error, handler, index) from error
        finally:
            if self.times.is_wanted:
                self.times.end(handler.name, begun_at)

    async def _run(
        self, transaction: EffectTransaction | None, messages: Sequence[Message], events: list[Event | RecordedEvent], handler: Handler
    ) -> None:
        given = events if handler.takes_batch else events[0]
        if not handler.takes_context:
            await handler.function(given)
            return
        assert transaction is not None, "a context has a transaction"
        context = self._context(transaction, messages, handler)
        try:
            await handler.function(given, context)
        finally:
            context.close()
        transaction.require_open()

    def _context(self, transaction: EffectTransaction, messages: Sequence[Message], handler: Handler) -> EffectContext:
        envelopes = [message.opened for message in messages if message.opened is not None]
        assert len(envelopes) == len(messages), "their events were decoded before"
        if handler.takes_batch:
            return BatchContext(self._surroundings, transaction, [envelope.event for envelope in envelopes], handler.name)
        return Context(self._surroundings, transaction, envelopes[0], handler.name)

    def _fault(self, transaction: EffectTransaction | None, error: Exception, handler: Handler, index: int) -> HandlerFault:
        meaning = transaction.interpret(error) if transaction is not None else error
        return HandlerFault(index, handler.name, meaning, counts=not isinstance(meaning, NOT_THE_MESSAGE))

    def _shone_through(self, handler: Handler, index: int) -> HandlerFault:
        """Nobody cancelled us: the handler lets a cancelled task of its own shine through."""
        return HandlerFault(index, handler.name, HandlerFailed(f"{handler.name} raised CancelledError by itself"))

    def _span(self, messages: Sequence[Message], handler: Handler) -> AbstractContextManager[None]:
        recorded = [message.envelope.event for message in messages if message.envelope is not None]
        return consumer_span(handler.name, recorded, group=self._surroundings.group, topic=messages[0].record.topic)

    def _too_slow(self, message: Message, index: int, handler: Handler | None = None) -> HandlerFault:
        late = handler or (message.handlers[-1] if message.handlers else None)
        name = late.name if late is not None else "(none)"
        return HandlerFault(
            index, name, HandlerFailed(f"{name} took longer than {self._limits.handler_seconds_max} s; it was cut off and rolled back")
        )


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def followers_of(message: Message, parked: Iterable[ParkedKey]) -> list[Follower]:
    """The message, to wait behind each of these."""
    assert message.envelope is not None, "a message with handlers has an envelope"
    return [Follower(one, message.record, message.envelope) for one in parked]


def correlation_of(message: Message) -> Correlation:
    """What events appended by its handlers carry: the same story, this event as the cause."""
    assert message.envelope is not None, "a message with handlers has an envelope"
    event = message.envelope.event
    return Correlation(event.correlation_id, str(event.event_id), event.metadata.get(TRACEPARENT))
