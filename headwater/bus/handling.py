"""Handlers at work: many messages in one transaction, or one message with every handler guarded."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

from headwater.bus.context import Context, HandlerSurroundings
from headwater.bus.dead_letters import DeadLetter, unreadable
from headwater.bus.partition_work import Message
from headwater.bus.ports import EffectsRefused, EffectTransaction
from headwater.bus.retries import HandlerFault
from headwater.bus.subscriptions import Handler
from headwater.bus.values import ConsumerLimits
from headwater.errors import HandlerFailed, InvalidEvent, SchemaError, StorageUnavailable, TransactionConflict, WrongExpectedVersion
from headwater.messages import TRACEPARENT, Event
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
    unreadable: int = 0
    """Those of them that no relay wrote."""


class MessageHandling:
    """Runs handlers in a transaction that somebody else opens and commits."""

    def __init__(self, surroundings: HandlerSurroundings, limits: ConsumerLimits) -> None:
        self._surroundings, self._limits = surroundings, limits
        self._is_traced = False
        self.times: Final = HandlerTimes(surroundings.metrics, surroundings.clock, surroundings.group)

    async def handle_batch(self, transaction: EffectTransaction, messages: Sequence[Message]) -> BatchOutcome:
        """Give every message to its handlers, until all are done or the batch has taken long enough.

        Raises:
            HandlerFault: one failed; the transaction must be rolled back.
            StorageUnavailable: the keys of personal data cannot be asked for.
        """
        await self._open(messages)
        outcome = BatchOutcome()
        letters: list[DeadLetter] = []
        try:
            async with asyncio.timeout(self._limits.batch_seconds_max + self._limits.handler_seconds_max):
                await self._handle_each(transaction, messages, outcome, letters)
        except TimeoutError as error:
            # The loop is written so that only our own timeout gets here.
            raise self._too_slow(messages[outcome.done], outcome.done) from error
        if letters:
            await transaction.bury(letters)
        return outcome

    async def _handle_each(
        self, transaction: EffectTransaction, messages: Sequence[Message], outcome: BatchOutcome, letters: list[DeadLetter]
    ) -> None:
        clock = self._surroundings.clock
        deadline = clock.monotonic() + self._limits.batch_seconds_max
        for message in messages:
            if message.handlers:
                await self._handle(transaction, message, outcome.done)
                outcome.handled += 1
            elif message.fault is not None:
                outcome.unreadable += 1
                letters.append(unreadable(self._surroundings.group, message.work.partition, message.record, message.fault, clock.now()))
            outcome.done += 1
            if message.handlers and clock.monotonic() > deadline:
                return

    async def _handle(self, transaction: EffectTransaction, message: Message, index: int) -> None:
        event = self.typed_event(message, index)
        with correlate(correlation_of(message)):
            for handler in message.handlers:
                await self._call(transaction, message, event, handler, index)

    async def handle_guarded(self, transaction: EffectTransaction, message: Message, handler: Handler) -> None:
        """Give one message to one handler, undoing what it did when it fails.

        Raises:
            HandlerFault: it failed; the transaction can go on.
            StorageUnavailable: the keys of its personal data cannot be asked for.
        """
        await self._open([message])
        event = self.typed_event(message, 0)
        try:
            async with transaction.savepoint():
                try:
                    # Inside the savepoint, so that what is cut off is undone like what fails.
                    async with asyncio.timeout(self._limits.handler_seconds_max):
                        with correlate(correlation_of(message)):
                            await self._call(transaction, message, event, handler, 0)
                except TimeoutError as error:
                    raise self._too_slow(message, 0, handler) from error
        except EffectsRefused as error:
            raise HandlerFault(0, handler.name, error) from error

    async def _open(self, messages: Sequence[Message]) -> None:
        """Open the personal data of those that have some; one that was altered is left closed, for `typed_event` to tell."""
        self._is_traced = is_on()
        sealed = [message for message in messages if message.is_sealed]
        if not sealed:
            return
        opener = await self._surroundings.personal.opener([message.envelope.event for message in sealed if message.envelope is not None])
        for message in sealed:
            message.open_with(opener)

    def typed_event(self, message: Message, index: int) -> Event:
        """The event as its class.

        Raises:
            HandlerFault: it cannot be read or does not fit, and never will.
        """
        try:
            return message.event()
        except (InvalidEvent, SchemaError) as error:
            raise HandlerFault(index, message.handlers[0].name, error, is_permanent=True) from error

    async def _call(self, transaction: EffectTransaction, message: Message, event: Event, handler: Handler, index: int) -> None:
        begun_at = self.times.begin() if self.times.is_wanted else 0.0
        try:
            if self._is_traced:
                with self._span(message, handler):
                    await self._run(transaction, message, event, handler)
            else:
                await self._run(transaction, message, event, handler)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # Nobody cancelled us: the handler lets a cancelled task of its own shine through.
            raise HandlerFault(index, handler.name, HandlerFailed(f"{handler.name} raised CancelledError by itself")) from error
        except Exception as error:
            meaning = transaction.interpret(error)
            raise HandlerFault(index, handler.name, meaning, counts=not isinstance(meaning, NOT_THE_MESSAGE)) from error
        finally:
            if self.times.is_wanted:
                self.times.end(handler.name, begun_at)

    async def _run(self, transaction: EffectTransaction, message: Message, event: Event, handler: Handler) -> None:
        if handler.takes_context:
            assert message.opened is not None, "its event was decoded before"
            context = Context(self._surroundings, transaction, message.opened, handler.name)
            try:
                await handler.function(event, context)
            finally:
                context.close()
            transaction.require_open()
        else:
            await handler.function(event)

    def _span(self, message: Message, handler: Handler) -> AbstractContextManager[None]:
        assert message.envelope is not None, "a message with handlers has an envelope"
        recorded = message.envelope.event
        return consumer_span(
            handler.name,
            group=self._surroundings.group,
            topic=message.record.topic,
            event_id=str(recorded.event_id),
            event_type=recorded.type,
            metadata=recorded.metadata,
        )

    def _too_slow(self, message: Message, index: int, handler: Handler | None = None) -> HandlerFault:
        name = (handler or message.handlers[-1]).name if message.handlers else "(none)"
        return HandlerFault(
            index, name, HandlerFailed(f"{name} took longer than {self._limits.handler_seconds_max} s; it was cut off and rolled back")
        )


def correlation_of(message: Message) -> Correlation:
    """What events appended by its handlers carry: the same story, this event as the cause."""
    assert message.envelope is not None, "a message with handlers has an envelope"
    event = message.envelope.event
    return Correlation(event.correlation_id, str(event.event_id), event.metadata.get(TRACEPARENT))
