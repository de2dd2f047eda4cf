"""From messages to commits: whole batches, pieces of them when one message is at fault, and that message alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from headwater.bus.context import HandlerSurroundings
from headwater.bus.dead_letters import DeadLetter, message_of, unhandled
from headwater.bus.handling import MessageHandling
from headwater.bus.partition_work import Message, PartitionWork
from headwater.bus.ports import EffectsRefused, EffectStore, EffectTransaction
from headwater.bus.retries import CONFLICTS_MAX, FailingMessage, HandlerFault, RetryPolicy
from headwater.bus.values import ConsumerLimits, Move
from headwater.errors import PartitionLost, WrongExpectedVersion
from headwater.kafka import Partition
from headwater.metrics import BATCH_SECONDS, DEAD_LETTERS, HANDLER_RETRIES, MESSAGES_HANDLED, NO_HANDLER
from headwater.randomness import Randomness
from headwater.telemetry import logger

_log = logger("bus")


class ClaimsLost(PartitionLost):
    """Rows were claimed by somebody else, or are not where we believed; the transaction was rolled back."""

    def __init__(self, partitions: frozenset[Partition]) -> None:
        super().__init__(f"{', '.join(map(str, sorted(partitions)))}: claimed by another member of the group")
        self.partitions = partitions


class _NotSettled(Exception):
    """The message is to be tried again."""


class Committing:
    """Works messages off, each exactly once, in the order of its partition."""

    def __init__(
        self,
        effects: EffectStore,
        surroundings: HandlerSurroundings,
        policy: RetryPolicy,
        limits: ConsumerLimits,
        randomness: Randomness,
    ) -> None:
        self._effects, self._surroundings, self._policy, self._randomness = effects, surroundings, policy, randomness
        self._handling: Final = MessageHandling(surroundings, limits)
        self.is_stopping = False
        """Begin nothing new."""
        self.progressed_at = surroundings.clock.monotonic()
        """When work last got on."""

    def progressed(self) -> None:
        """Something ended, well or not."""
        self.progressed_at = self._surroundings.clock.monotonic()

    # -- many at once --------------------------------------------------------------------------------------------------

    async def work_off(self, messages: Sequence[Message]) -> None:
        """Commit the messages in as few transactions as their handlers allow; a failing one is set aside with its partition.

        Raises:
            ClaimsLost: rolled back; what was committed before stays.
            StorageError, TransactionConflict: the last transaction's outcome may be unknown.
        """
        pieces = [messages]
        while pieces and not self.is_stopping:
            self.progressed()
            piece = [message for message in pieces.pop() if message.work.may_apply(message.offset)]
            if not piece:
                continue
            try:
                done = await self._commit(piece)
            except HandlerFault as fault:
                self._set_aside(piece[fault.index], fault)
                pieces += [piece[fault.index + 1 :], piece[: fault.index]]
            except EffectsRefused as error:
                pieces += self._halves(piece, error)
            else:
                if done < len(piece):
                    pieces.append(piece[done:])

    async def _commit(self, messages: Sequence[Message]) -> int:
        clock, metrics, group = self._surroundings.clock, self._surroundings.metrics, self._surroundings.group
        begun_at = clock.monotonic()
        async with self._effects.transaction() as transaction:
            outcome = await self._handling.handle_batch(transaction, messages)
            ends = {message.work: message.offset for message in messages[: outcome.done]}
            moves = await self._advance(transaction, ends.items())
        for work, move in zip(ends, moves, strict=True):
            work.commit(move.after)
        metrics.observe(BATCH_SECONDS, clock.monotonic() - begun_at, group)
        metrics.add(MESSAGES_HANDLED, outcome.handled, group)
        if outcome.unreadable:
            metrics.add(DEAD_LETTERS, outcome.unreadable, group, NO_HANDLER)
        self._handling.times.tell()
        _log.debug("batch_committed", record_count=outcome.done, handled_count=outcome.handled, partition_count=len(moves))
        return outcome.done

    async def _advance(self, transaction: EffectTransaction, ends: Iterable[tuple[PartitionWork, int]]) -> list[Move]:
        moves = [work.move_to(offset) for work, offset in ends]
        if lost := await transaction.advance(self._surroundings.group, moves):
            raise ClaimsLost(lost)
        return moves

    def _halves(self, piece: Sequence[Message], error: EffectsRefused) -> list[Sequence[Message]]:
        """Nobody knows which message it was: look in each half."""
        if len(piece) > 1:
            middle = len(piece) // 2
            return [piece[middle:], piece[:middle]]
        _log.warning("effects_refused", **_facts(piece[0]), error=str(error))
        piece[0].work.failing = FailingMessage(piece[0].offset, due_at=self._surroundings.clock.monotonic())
        return []

    def _set_aside(self, message: Message, fault: HandlerFault) -> None:
        failing = FailingMessage(message.offset, due_at=self._surroundings.clock.monotonic())
        message.work.failing = failing
        self._note(message, failing, [fault])
        if fault.is_permanent or failing.attempts >= self._policy.attempts_max:
            failing.due_at = self._surroundings.clock.monotonic()
            if not fault.is_permanent:
                failing.given_up.add(fault.handler_name)

    # -- one alone -----------------------------------------------------------------------------------------------------

    async def try_alone(self, message: Message) -> None:
        """Try the message that its partition waits for; the last attempt keeps what its other handlers did, and a dead letter.

        Raises:
            ClaimsLost, StorageError, TransactionConflict: as `work_off`.
        """
        failing = message.work.failing
        assert failing is not None, "only a failing message is tried alone"
        faults: list[HandlerFault] = []
        letters: list[DeadLetter] = []
        try:
            async with self._effects.transaction() as transaction:
                faults = await self._handle_guarded(transaction, message, failing)
                self._note(message, failing, faults)
                letters = self._letters(message, failing, faults)
                await transaction.bury(letters)
                (move,) = await self._advance(transaction, [(message.work, message.offset)])
        except _NotSettled:
            return
        except EffectsRefused as error:
            self._give_up_in_time(message, failing, error)
            return
        message.work.commit(move.after)
        self._handling.times.tell()
        self._surroundings.metrics.add(MESSAGES_HANDLED, 1, self._surroundings.group)
        for letter in letters:
            self._surroundings.metrics.add(DEAD_LETTERS, 1, self._surroundings.group, letter.handler_name or NO_HANDLER)
            _log.error(
                "dead_letter_stored", **_facts(message), handler=letter.handler_name, attempts=letter.attempts, error=letter.error_message
            )

    async def _handle_guarded(self, transaction: EffectTransaction, message: Message, failing: FailingMessage) -> list[HandlerFault]:
        faults: list[HandlerFault] = []
        for handler in message.handlers:
            if handler.name in failing.given_up:
                continue
            self.progressed()
            try:
                await self._handling.handle_guarded(transaction, message, handler)
            except HandlerFault as fault:
                # The fault of undecodable data names the first handler; here each gets its own.
                fault.handler_name = handler.name
                fault.counts = fault.counts or (isinstance(fault.error, WrongExpectedVersion) and failing.waits >= CONFLICTS_MAX)
                fault.ends_transaction = not _is_open(transaction)
                faults.append(fault)
                if fault.ends_transaction or not fault.counts:
                    break
        return faults

    def _note(self, message: Message, failing: FailingMessage, faults: Sequence[HandlerFault]) -> None:
        """Remember the errors and set the next moment."""
        if not faults:
            return
        clock = self._surroundings.clock
        failing.attempts += any(fault.counts for fault in faults)
        failing.waits += 1
        # Who was first has committed by now: looking again soon is right, and the partition should not wait long for it.
        is_conflict = all(isinstance(fault.error, WrongExpectedVersion) for fault in faults)
        delay = self._policy.delay_seconds(1 if is_conflict else failing.waits, self._randomness)
        failing.due_at = clock.monotonic() + delay
        for fault in faults:
            failing.note(fault.handler_name, fault.error, clock.now())
            self._surroundings.metrics.add(HANDLER_RETRIES, 1, self._surroundings.group, fault.handler_name)
            _log.warning(
                "handler_failed",
                **_facts(message),
                handler=fault.handler_name,
                attempt=failing.attempts,
                attempts_max=self._policy.attempts_max,
                delay_seconds=round(delay, 3),
                counts=fault.counts,
                error=f"{type(fault.error).__name__}: {message_of(fault.error)}",
            )

    def _letters(self, message: Message, failing: FailingMessage, faults: Sequence[HandlerFault]) -> list[DeadLetter]:
        """The dead letters that settle the message; none when all went well.

        Raises:
            _NotSettled: it is to be tried again.
        """
        is_last = failing.attempts >= self._policy.attempts_max
        if is_last and (spoilers := {fault.handler_name for fault in faults if fault.ends_transaction}):
            # The other handlers have yet to be heard, in a transaction without these.
            failing.given_up |= spoilers
            failing.due_at = self._surroundings.clock.monotonic()
            raise _NotSettled
        if any(not fault.counts or not (is_last or fault.is_permanent) for fault in faults):
            raise _NotSettled
        names = {fault.handler_name for fault in faults} | failing.given_up
        envelope = message.envelope
        assert envelope is not None, "a message with handlers has an envelope"
        return [
            unhandled(
                self._surroundings.group, name, message.work.partition, message.record, envelope, failing.attempts, failing.failures[name]
            )
            for name in (handler.name for handler in message.handlers)
            if name in names
        ]

    def _give_up_in_time(self, message: Message, failing: FailingMessage, error: EffectsRefused) -> None:
        """Every handler ended well, yet their work cannot be committed: each may be the one."""
        suspects = [handler.name for handler in message.handlers if handler.name not in failing.given_up]
        self._note(message, failing, [HandlerFault(0, name, error) for name in suspects])
        if failing.attempts >= self._policy.attempts_max:
            failing.given_up.update(suspects)
            failing.due_at = self._surroundings.clock.monotonic()


def _is_open(transaction: EffectTransaction) -> bool:
    try:
        transaction.require_open()
    except EffectsRefused:
        return False
    return True


def _facts(message: Message) -> dict[str, object]:
    facts: dict[str, object] = {"topic": message.record.topic, "partition": message.record.partition, "offset": message.offset}
    if message.envelope is not None:
        event = message.envelope.event
        facts |= {"event_type": event.type, "event_id": str(event.event_id), "stream_name": event.stream_name}
    return facts
