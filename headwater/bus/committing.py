"""From messages to commits: whole batches, pieces of them when one message is at fault, and that message alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from headwater.bus.context import HandlerSurroundings
from headwater.bus.failing import FailingMessage, HandlerFault
from headwater.bus.handling import MessageHandling
from headwater.bus.judging import ROOM_SECONDS, Judging, facts_of
from headwater.bus.parked import ParkedKey
from headwater.bus.partition_work import Message, PartitionWork
from headwater.bus.ports import EffectsRefused, EffectStore, EffectTransaction
from headwater.bus.retries import CONFLICTS_MAX, BatchFault
from headwater.bus.settling import Settlement, Settling
from headwater.bus.values import ConsumerLimits, Move
from headwater.errors import PartitionLost, WrongExpectedVersion
from headwater.kafka import Partition
from headwater.metrics import BATCH_SECONDS, DEAD_LETTERS, MESSAGES_HANDLED, MESSAGES_PARKED, NO_HANDLER
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
        self, effects: EffectStore, surroundings: HandlerSurroundings, judging: Judging, settling: Settling, limits: ConsumerLimits
    ) -> None:
        self._effects, self._surroundings, self._judging, self._settling = effects, surroundings, judging, settling
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
        self._hold_where_full(messages)
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
            except (EffectsRefused, BatchFault) as error:
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
        if outcome.followers:
            works = {work.partition: work for work in ends}
            for follower in outcome.followers:
                works[Partition(follower.record.topic, follower.record.partition)].parked.count(follower.parked, 1)
                metrics.add(MESSAGES_PARKED, 1, group, follower.parked.handler_name)
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

    def _halves(self, piece: Sequence[Message], error: EffectsRefused | BatchFault) -> list[Sequence[Message]]:
        """Nobody knows which message it was: look in each half."""
        if len(piece) > 1:
            middle = len(piece) // 2
            return [piece[middle:], piece[:middle]]
        _log.warning("effects_refused", **facts_of(piece[0]), error=str(error))
        piece[0].work.failing = FailingMessage(piece[0].offset, due_at=self._surroundings.clock.monotonic())
        return []

    def _set_aside(self, message: Message, fault: HandlerFault) -> None:
        failing = message.work.failing = FailingMessage(message.offset, due_at=self._surroundings.clock.monotonic())
        if not fault.is_permanent:
            # Data that does not fit fails for every handler, and each is asked by itself.
            self._judging.note(message, failing, [fault])

    def _hold_where_full(self, messages: Sequence[Message]) -> None:
        """Where what is parked has reached its limit, the first message that would have to wait behind it holds its partition."""
        waiting: dict[PartitionWork, int] = {}
        for message in messages:
            work = message.work
            if work.parked and work.may_apply(message.offset) and (held := len(message.held_back())):
                waiting[work] = waiting.get(work, 0) + held
                if not self._judging.has_room(work, for_messages=waiting[work]):
                    due_at = self._surroundings.clock.monotonic() + ROOM_SECONDS
                    work.failing = FailingMessage(message.offset, due_at, is_blocked=True)

    # -- one alone -----------------------------------------------------------------------------------------------------

    async def try_alone(self, message: Message) -> None:
        """Try the message that its partition waits for; what is decided about its handlers commits with what the others did.

        Raises:
            ClaimsLost, StorageError, TransactionConflict: as `work_off`.
        """
        failing = message.work.failing
        assert failing is not None, "only a failing message is tried alone"
        held = message.held_back()
        if failing.is_blocked or held:
            has_room = self._judging.has_room(message.work, for_messages=len(held))
            if not has_room:
                failing.due_at = self._surroundings.clock.monotonic() + ROOM_SECONDS
                return
            if failing.is_blocked:
                message.work.failing = None
                return
        settlement = Settlement()
        try:
            async with self._effects.transaction() as transaction:
                faults = await self._handle_guarded(transaction, message, failing, held)
                self._judging.note(message, failing, faults)
                self._require_settled(failing, faults)
                settlement = self._settling.settle(message, failing, held)
                await self._settling.keep(transaction, message, settlement)
                (move,) = await self._advance(transaction, [(message.work, message.offset)])
        except _NotSettled:
            return
        except EffectsRefused as error:
            # Every handler ended well, yet their work cannot be committed: each may be the one.
            suspects = [h.name for h in message.handlers if h.name not in failing.settled and h.name not in held]
            self._judging.note(message, failing, [HandlerFault(0, name, error) for name in suspects])
            return
        message.work.commit(move.after)
        self._settling.remember(message, settlement)
        self._handling.times.tell()
        self._surroundings.metrics.add(MESSAGES_HANDLED, 1, self._surroundings.group)

    async def _handle_guarded(
        self, transaction: EffectTransaction, message: Message, failing: FailingMessage, held: Mapping[str, ParkedKey]
    ) -> list[HandlerFault]:
        faults: list[HandlerFault] = []
        for handler in message.handlers:
            if handler.name in failing.settled or handler.name in held:
                continue
            self.progressed()
            try:
                await self._handling.handle_guarded(transaction, message, handler)
            except HandlerFault as fault:
                # The fault of undecodable data names the first handler; here each gets its own.
                fault.handler_name = handler.name
                fault.counts = fault.counts or (isinstance(fault.error, WrongExpectedVersion) and failing.waits >= CONFLICTS_MAX)
                fault.ends_transaction = not is_open(transaction)
                faults.append(fault)
                if fault.ends_transaction or not fault.counts:
                    break
        return faults

    def _require_settled(self, failing: FailingMessage, faults: Sequence[HandlerFault]) -> None:
        if any(fault.handler_name not in failing.settled for fault in faults):
            raise _NotSettled
        if any(fault.ends_transaction for fault in faults):
            # The other handlers have yet to be heard, in a transaction without these.
            raise _NotSettled
        if failing.is_stopped:
            raise _NotSettled


def is_open(transaction: EffectTransaction) -> bool:
    """Whether anything more can be done in it."""
    try:
        transaction.require_open()
    except EffectsRefused:
        return False
    return True
