"""Parked keys at work: the first message is tried again when it is due, and once it succeeds those behind it follow, in order.

All of it in transactions of the partition's owner, which end by looking whether it still is: a message is removed in the same transaction as its
effect, and what a person decided is carried out there, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from headwater.bus.burying import Burying
from headwater.bus.committing import ClaimsLost, is_open
from headwater.bus.context import HandlerSurroundings
from headwater.bus.dead_letters import DeadLetter, ErrorFacts, message_of, unhandled, unreadable
from headwater.bus.failing import Failure, HandlerFault, TryAgain
from headwater.bus.handling import MessageHandling
from headwater.bus.judging import Judging, facts_of
from headwater.bus.parked import ParkedKey, ParkedRecord, ParkedRequest
from headwater.bus.partition_work import Message, PartitionWork
from headwater.bus.ports import EffectsRefused, EffectStore, EffectTransaction
from headwater.bus.retries import CONFLICTS_MAX, Park, Skip, Stop
from headwater.bus.values import ConsumerLimits
from headwater.errors import HandlerFailed, WrongExpectedVersion
from headwater.kafka import ValueDecoder
from headwater.metrics import DEAD_LETTERS
from headwater.telemetry import logger

_NOT_TRIED: Final = HandlerFailed("it has yet to be tried; it waited behind another message of its key")
_NOT_AN_ENVELOPE: Final = HandlerFailed("it was parked by another version of Headwater, and can no longer be read")

_log = logger("bus")


@dataclass(slots=True)
class _Progress:
    """How far one parked key got in one transaction; `key` is what its row is to say."""

    key: ParkedKey
    due_in_seconds: float = 0.0
    removed: list[int] = field(default_factory=list[int])
    letters: list[DeadLetter] = field(default_factory=list[DeadLetter])
    is_over: bool = False
    """Nothing more in this transaction: the next message failed, or time is up."""

    def pass_on(self, message_id: int) -> None:
        """This message is done with; the next one has yet to be tried."""
        self.removed.append(message_id)
        self.key = replace(self.key, attempts=0, retries=0, conflicts=0, error=None, is_stopped=False)
        self.due_in_seconds = 0.0


class Parking:
    """Works off parked keys, one transaction after another."""

    def __init__(
        self,
        effects: EffectStore,
        surroundings: HandlerSurroundings,
        judging: Judging,
        burying: Burying,
        limits: ConsumerLimits,
        values: ValueDecoder,
    ) -> None:
        self._effects, self._surroundings, self._judging, self._burying = effects, surroundings, judging, burying
        self._limits, self._values = limits, values
        self._handling: Final = MessageHandling(surroundings, limits)

    async def try_next(self, work: PartitionWork, parked: ParkedKey) -> None:
        """One transaction's worth: the first message and, where it goes well, those behind it; or what a person decided about the first.

        Raises:
            ClaimsLost: the partition is somebody else's; nothing was done.
            StorageError, TransactionConflict: the outcome may be unknown; load what is parked again.
            BrokerUnavailable: the schemas of values cannot be asked for; nothing was done.
        """
        is_one = parked.is_alone or parked.attempts > 0 or parked.request is not None or parked.message_count == 1
        try:
            await self._work_off(work, parked, 1 if is_one else self._limits.parked_batch_size_max)
        except EffectsRefused as error:
            if is_one:
                await self._work_off(work, parked, 1, refused=error)
            else:
                # Nobody knows which message it was.
                parked.is_alone = True

    async def _work_off(self, work: PartitionWork, parked: ParkedKey, limit: int, *, refused: EffectsRefused | None = None) -> None:
        progress = _Progress(replace(parked), max(0.0, parked.due_at - self._surroundings.clock.monotonic()))
        async with self._effects.transaction() as transaction:
            records = await transaction.parked.read(parked, work.partition, limit)
            assert records, "a parked key has messages"
            messages = await self._decoded(work, records, again=parked.attempts > 0)
            request = parked.request
            if request is not None and request.kind != "retry":
                # One that was made before another message became the first has come too late.
                if request.message_id == records[0].message_id:
                    self._carry_out(request, progress, records[0], messages[0])
            elif refused is not None:
                self._judge(progress, records[0], messages[0], HandlerFault(0, parked.handler_name, refused))
            else:
                await self._follow(transaction, progress, records, messages)
            await self._keep(transaction, work, progress, request)
        self._remember(work, parked, progress)

    async def _decoded(self, work: PartitionWork, records: Sequence[ParkedRecord], *, again: bool) -> list[Message]:
        await self._values.prepare([record.value for record in records], again=again)
        return [work.decode(record) for record in records]

    # -- the messages --------------------------------------------------------------------------------------------------

    async def _follow(
        self, transaction: EffectTransaction, progress: _Progress, records: Sequence[ParkedRecord], messages: Sequence[Message]
    ) -> None:
        clock = self._surroundings.clock
        deadline = clock.monotonic() + self._limits.batch_seconds_max
        for record, message in zip(records, messages, strict=True):
            try:
                await self._handle(transaction, message, progress.key.handler_name)
            except HandlerFault as fault:
                fault.handler_name = progress.key.handler_name
                if not is_open(transaction):
                    # What the messages before it did is gone, too.
                    raise EffectsRefused(f"{fault.handler_name} left a transaction that cannot go on: {fault.error}") from fault.error
                self._judge(progress, record, message, fault)
            else:
                progress.pass_on(record.message_id)
            if progress.is_over or clock.monotonic() > deadline:
                return

    async def _handle(self, transaction: EffectTransaction, message: Message, handler_name: str) -> None:
        handlers = message.route.handlers if message.route is not None else ()
        handler = next((handler for handler in handlers if handler.name == handler_name), None)
        if handler is None:
            event_type = message.envelope.event.type if message.envelope else "such records"
            reason = f"{handler_name} no longer handles {event_type}; subscribe it again and retry the dead letter, or skip or discard that"
            raise HandlerFault(0, handler_name, HandlerFailed(reason), is_permanent=True)
        await self._handling.handle_guarded(transaction, message, handler)

    def _judge(self, progress: _Progress, record: ParkedRecord, message: Message, fault: HandlerFault) -> None:
        """What becomes of a message that failed; what was done before it stays."""
        key, now = progress.key, self._surroundings.clock.now()
        if not fault.counts and not (isinstance(fault.error, WrongExpectedVersion) and key.conflicts >= CONFLICTS_MAX):
            progress.is_over = True
            progress.key = replace(key, conflicts=key.conflicts + 1)
            progress.due_in_seconds = self._judging.wait_out(key.conflicts + 1, fault.error)
            return
        first_failed_at = key.error.first_failed_at if key.error is not None else now
        failure = Failure(fault.error, first_failed_at, now, key.attempts + 1, key.retries)
        verdict = self._judging.judge_parked(message, fault, failure)
        error = ErrorFacts.of(failure)
        progress.key = replace(key, attempts=failure.attempts, retries=failure.retries, error=error, conflicts=0, is_stopped=False)
        stays_stopped = isinstance(verdict, Stop) or (isinstance(verdict, Park) and verdict.when_exhausted == "stop_key")
        if isinstance(verdict, TryAgain):
            progress.is_over, progress.due_in_seconds = True, verdict.delay_seconds
        elif stays_stopped:
            progress.is_over, progress.key.is_stopped = True, True
        else:
            if not isinstance(verdict, Skip):
                progress.letters.append(self._letter(message, progress.key, error))
            progress.pass_on(record.message_id)
        _log.warning(
            "parked_message_failed",
            **facts_of(message),
            handler=key.handler_name,
            attempt=failure.attempts,
            then=f"again in {verdict.delay_seconds:.3f} s"
            if isinstance(verdict, TryAgain)
            else "the key stays stopped"
            if stays_stopped
            else type(verdict).__name__,
            error=f"{type(fault.error).__name__}: {message_of(fault.error)}",
        )

    def _carry_out(self, request: ParkedRequest, progress: _Progress, record: ParkedRecord, message: Message) -> None:
        """Skip the first message, which stays listed as a skipped dead letter, or remove it without a trace."""
        if request.kind == "skip":
            now = self._surroundings.clock.now()
            error = progress.key.error or ErrorFacts.of(Failure(_NOT_TRIED, now, now))
            progress.letters.append(self._letter(message, progress.key, error, is_skipped=True))
        progress.pass_on(record.message_id)
        _log.warning("parked_message_" + ("skipped" if request.kind == "skip" else "discarded"), **facts_of(message))

    def _letter(self, message: Message, key: ParkedKey, error: ErrorFacts, *, is_skipped: bool = False) -> DeadLetter:
        if message.envelope is None:
            return unreadable(
                self._surroundings.group, message.work.partition, message.record, _NOT_AN_ENVELOPE, self._surroundings.clock.now()
            )
        return unhandled(
            self._surroundings.group,
            key.handler_name,
            message.work.partition,
            message.record,
            message.envelope,
            key.attempts,
            error,
            is_skipped=is_skipped,
        )

    # -- what is kept --------------------------------------------------------------------------------------------------

    async def _keep(self, transaction: EffectTransaction, work: PartitionWork, progress: _Progress, request: ParkedRequest | None) -> None:
        if progress.letters:
            await self._burying.bury(transaction, progress.letters)
        # From here on the row of the position is locked: whoever claims the partition waits until this has ended.
        if not await transaction.parked.hold(self._surroundings.group, work.position):
            raise ClaimsLost(frozenset({work.partition}))
        await transaction.parked.remove(progress.removed)
        if progress.key.message_count == len(progress.removed):
            await transaction.parked.close(progress.key)
        else:
            await transaction.parked.update(progress.key, progress.due_in_seconds, request)

    def _remember(self, work: PartitionWork, parked: ParkedKey, progress: _Progress) -> None:
        self._handling.times.tell()
        key = progress.key
        parked.attempts, parked.retries, parked.conflicts, parked.error = key.attempts, key.retries, key.conflicts, key.error
        parked.is_stopped, parked.request = key.is_stopped, None
        parked.is_alone = parked.is_alone and not progress.removed
        parked.due_at = self._surroundings.clock.monotonic() + progress.due_in_seconds
        if progress.removed:
            work.parked.count(parked, -len(progress.removed))
        facts = {"handler": parked.handler_name, "key": parked.key, "topic": work.partition.topic, "partition": work.partition.number}
        for letter in progress.letters:
            if not letter.is_skipped:
                self._surroundings.metrics.add(DEAD_LETTERS, 1, self._surroundings.group, parked.handler_name)
                _log.error(
                    "dead_letter_stored",
                    **facts,
                    event_id=str(letter.event_id),
                    event_type=letter.event_type,
                    attempts=letter.attempts,
                    error=letter.error_message,
                )
        if parked.message_count == 0:
            _log.info("key_freed", **facts)
