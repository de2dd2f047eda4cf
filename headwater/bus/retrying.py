"""Dead letters that somebody wants tried again: each handed to exactly its handler, in one transaction with what becomes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol, Self

from headwater.bus.context import HandlerSurroundings, PublishesEvents
from headwater.bus.dead_letters import DeadLetter, error_facts, raw_content_type, raw_value
from headwater.bus.failing import HandlerFault
from headwater.bus.foreign import ForeignValues
from headwater.bus.handling import MessageHandling
from headwater.bus.partition_work import Message, PartitionWork
from headwater.bus.ports import EffectsRefused, EffectStore, EffectTransaction
from headwater.bus.postgres import dead_letter_of
from headwater.bus.retries import CONFLICTS_MAX, RetryPolicy
from headwater.bus.routes import Handler
from headwater.bus.subscriptions import Subscriptions
from headwater.bus.values import ConsumerLimits, PartitionPosition
from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.errors import BrokerUnavailable, HandlerFailed, SchemaError, StorageError, TransactionConflict, WrongExpectedVersion
from headwater.kafka import JSON_DECODER, Envelope, ValueDecoder
from headwater.messages import LOG_START, EventRegistry, RecordedEvent, category_of
from headwater.postgres import sql_file
from headwater.privacy import REDACTING, OpensEvents
from headwater.randomness import SYSTEM_RANDOMNESS, Randomness
from headwater.telemetry import logger

RETRY_POLL_SECONDS_MIN: Final = 0.25
RETRY_POLL_SECONDS_MAX: Final = 4.0
"""How long a request for a retry may go unseen, at most."""
DEFERRED_MAX: Final = 1_000
"""Letters left alone for now, because something other than the message was at fault."""

_PACKAGE: Final = "headwater.bus"
_CLAIM_LETTER_RETRY = sql_file(_PACKAGE, "claim_letter_retry")
_SETTLE_LETTER_RETRY = sql_file(_PACKAGE, "settle_letter_retry")
_FAIL_LETTER_RETRY = sql_file(_PACKAGE, "fail_letter_retry")

_DEFERRAL: Final = RetryPolicy(first_delay_seconds=0.25, delay_seconds_max=30.0)

_log = logger("bus")


class LetterRetries(Protocol):
    """Where the letters to be tried again are kept; everything happens in the transaction given."""

    async def claim(
        self, transaction: EffectTransaction, group: str, handler_names: Sequence[str], excluded: Sequence[int]
    ) -> DeadLetter | None:
        """The oldest letter that may be tried now, kept from other workers until the transaction ends."""
        ...

    async def settle(self, transaction: EffectTransaction, letter: DeadLetter) -> None:
        """It was handled."""
        ...

    async def fail(self, transaction: EffectTransaction, letter: DeadLetter, error: BaseException, now: datetime) -> bool:
        """It failed again; False where somebody else settled or failed it meanwhile."""
        ...


class PostgresLetterRetries:
    """`LetterRetries` on the connection of the transaction given."""

    async def claim(
        self, transaction: EffectTransaction, group: str, handler_names: Sequence[str], excluded: Sequence[int]
    ) -> DeadLetter | None:
        """The oldest letter that may be tried now; see `LetterRetries.claim`."""
        row = await transaction.connection.fetchrow(_CLAIM_LETTER_RETRY, group, handler_names, excluded)
        return None if row is None else dead_letter_of(row)

    async def settle(self, transaction: EffectTransaction, letter: DeadLetter) -> None:
        """It was handled."""
        transaction.require_open()
        await transaction.connection.execute(_SETTLE_LETTER_RETRY, letter.dead_letter_id)

    async def fail(self, transaction: EffectTransaction, letter: DeadLetter, error: BaseException, now: datetime) -> bool:
        """It failed again; see `LetterRetries.fail`."""
        facts = error_facts(error)
        failed = await transaction.connection.fetchval(
            _FAIL_LETTER_RETRY, letter.dead_letter_id, letter.attempts, facts["error_type"], facts["error_message"], facts["traceback"], now
        )
        return failed is not None


@dataclass(frozen=True, slots=True)
class _LetterRecord:
    """Where the letter's record was; its bytes are not needed, for the letter holds the event."""

    topic: str
    partition: int
    offset: int
    timestamp: int = 0
    key: bytes | None = None
    value: bytes | None = None
    headers: Sequence[tuple[str, bytes]] = ()


@dataclass(slots=True)
class _Deferral:
    """A letter that is left alone until a moment on the monotonic clock."""

    due_at: float
    waits: int = 0


class _NotSettled(Exception):
    """Something other than the letter was at fault; it stays to be tried."""

    def __init__(self, fault: HandlerFault) -> None:
        super().__init__(str(fault))
        self.fault = fault


class DeadLetterRetrier:
    """Tries dead letters again when somebody asked for it, in any number of processes: each request leads to one try whose outcome is kept.

    The letter is locked by the transaction in which its handler acts and which settles it, so its effect happens once, whatever crashes. One
    that fails again waits for the next decision, with its new error. What is retried together keeps its order per stream and handler; events of
    the stream that were handled since are not undone.
    """

    def __init__(
        self,
        *,
        group: str,
        subscriptions: Subscriptions,
        effects: EffectStore,
        letters: LetterRetries,
        values: ValueDecoder = JSON_DECODER,
        publisher: PublishesEvents | None = None,
        registry: EventRegistry | None = None,
        personal: OpensEvents = REDACTING,
        retry_policy: RetryPolicy | None = None,
        limits: ConsumerLimits | None = None,
        clock: Clock = SYSTEM_CLOCK,
        randomness: Randomness = SYSTEM_RANDOMNESS,
    ) -> None:
        self._group, self._subscriptions, self._effects, self._letters = group, subscriptions, effects, letters
        self._values = ForeignValues.around(values, subscriptions.foreign)
        self._policy, self._limits = retry_policy or _DEFERRAL, limits or ConsumerLimits()
        self._clock, self._randomness = clock, randomness
        self._registry = registry or EventRegistry(subscriptions.event_classes)
        self._handling = MessageHandling(
            HandlerSurroundings(group=group, publisher=publisher, registry=self._registry, clock=clock, personal=personal), self._limits
        )
        self._deferred: dict[int, _Deferral] = {}
        self._is_stopping = self._is_idle = False

    @classmethod
    def connect(
        cls,
        subscriptions: Subscriptions,
        effects: EffectStore,
        publisher: PublishesEvents | None,
        *,
        group: str,
        values: ValueDecoder,
        registry: EventRegistry | None = None,
        personal: OpensEvents = REDACTING,
    ) -> Self:
        """A retrier for the letters of this group in PostgreSQL, where these effects are kept."""
        return cls(
            group=group,
            subscriptions=subscriptions,
            effects=effects,
            letters=PostgresLetterRetries(),
            values=values,
            publisher=publisher,
            registry=registry,
            personal=personal,
        )

    # -- the life of it ------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until cancelled; then finish the letter at hand, within `shutdown_seconds_max`, and end."""
        self._is_stopping = False
        worker = asyncio.create_task(self._work(), name=f"headwater retrier {self._group}")
        try:
            await asyncio.shield(worker)
        except asyncio.CancelledError:
            self._is_stopping = True
            if self._is_idle:
                worker.cancel()
            await asyncio.wait([worker], timeout=self._limits.shutdown_seconds_max)
            raise
        finally:
            worker.cancel()
            await asyncio.wait([worker])

    async def _work(self) -> None:
        pause = RETRY_POLL_SECONDS_MIN
        while not self._is_stopping:
            try:
                was_busy = await self.try_next()
            except (StorageError, TransactionConflict, EffectsRefused) as error:
                _log.warning("retries_wait", group=self._group, error=str(error), delay_seconds=RETRY_POLL_SECONDS_MAX)
                await self._sleep(RETRY_POLL_SECONDS_MAX)
                continue
            if was_busy:
                pause = RETRY_POLL_SECONDS_MIN
                continue
            await self._sleep(pause * self._randomness.uniform(0.8, 1.0))
            pause = min(pause * 2, RETRY_POLL_SECONDS_MAX)

    async def _sleep(self, seconds: float) -> None:
        if self._is_stopping:
            return
        self._is_idle = True
        try:
            await self._clock.sleep(seconds)
        finally:
            self._is_idle = False

    # -- one letter ----------------------------------------------------------------------------------------------------

    async def try_next(self) -> bool:
        """Try the oldest letter that somebody asked for; False when there is none.

        Raises:
            StorageError, TransactionConflict: the outcome may be unknown; the letter itself tells when it is claimed again.
        """
        letter: DeadLetter | None = None
        try:
            async with self._effects.transaction() as transaction:
                letter = await self._letters.claim(transaction, self._group, self._handler_names(), self._excluded())
                if letter is None:
                    return False
                await self._try(transaction, letter)
        except _NotSettled as undone:
            assert letter is not None, "only a letter that was claimed is tried"
            self._defer(letter, undone.fault)
        except EffectsRefused as error:
            # The handler ended or spoiled the transaction, and the claim with it.
            if letter is None:
                raise
            async with self._effects.transaction() as transaction:
                await self._fail(transaction, letter, error)
        return True

    async def _try(self, transaction: EffectTransaction, letter: DeadLetter) -> None:
        try:
            message, handler = await self._message(letter)
            await self._handling.handle_guarded(transaction, message, handler)
        except HandlerFault as fault:
            try:
                transaction.require_open()
            except EffectsRefused as refused:
                raise refused from fault.error
            if not (fault.counts or self._conflicts_too_often(letter, fault)):
                raise _NotSettled(fault) from fault
            await self._fail(transaction, letter, fault.error)
        else:
            await self._letters.settle(transaction, letter)
            self._deferred.pop(_id_of(letter), None)
            _log.info("dead_letter_handled", **_facts(letter))

    async def _fail(self, transaction: EffectTransaction, letter: DeadLetter, error: BaseException) -> None:
        self._deferred.pop(_id_of(letter), None)
        if await self._letters.fail(transaction, letter, error, self._clock.now()):
            _log.error("dead_letter_failed_again", **_facts(letter), error=f"{type(error).__name__}: {error_facts(error)['error_message']}")

    async def _message(self, letter: DeadLetter) -> tuple[Message, Handler]:
        """What the consumer would have made of the letter's record.

        Raises:
            HandlerFault: the handler no longer takes events of this type, or the letter's value still cannot be read.
        """
        assert letter.event_type is not None and letter.handler_name is not None, "a letter that may be tried is whole"
        assert letter.stream_name is not None, "the same"
        routes = self._subscriptions.routes_of(category_of(letter.stream_name))
        route = routes.find(letter.event_type)
        handler = next((h for h in route.handlers if h.name == letter.handler_name), None) if route is not None else None
        if handler is None:
            reason = f"{letter.handler_name} no longer handles {letter.event_type}; subscribe it again, or skip or discard the letter"
            raise HandlerFault(0, letter.handler_name, HandlerFailed(reason), is_permanent=True)
        position = PartitionPosition(letter.partition, epoch=0, next_offset=letter.offset, marks={}, last=None)
        record = _LetterRecord(letter.partition.topic, letter.partition.number, letter.offset)
        return Message(
            PartitionWork(position, routes, registry=self._registry),
            record,
            _envelope(letter, await self._data(letter)),
            route,
        ), handler

    async def _data(self, letter: DeadLetter) -> str:
        """The event's JSON; where its value could not be read, another look, for its schema may have been published since.

        Raises:
            HandlerFault: it still cannot be read.
        """
        if letter.data is not None:
            return letter.data
        assert letter.handler_name is not None, "a letter that may be tried is whole"
        value = raw_value(letter)
        try:
            await self._values.prepare([value], again=True)
            return self._values.decode(value, raw_content_type(letter))
        except BrokerUnavailable as error:
            raise HandlerFault(0, letter.handler_name, error, counts=False) from error
        except SchemaError as error:
            raise HandlerFault(0, letter.handler_name, error, is_permanent=True) from error

    def _handler_names(self) -> list[str]:
        return [handler.name for handler in self._subscriptions]

    # -- waiting things out --------------------------------------------------------------------------------------------

    def _conflicts_too_often(self, letter: DeadLetter, fault: HandlerFault) -> bool:
        deferral = self._deferred.get(_id_of(letter))
        return isinstance(fault.error, WrongExpectedVersion) and deferral is not None and deferral.waits >= CONFLICTS_MAX

    def _defer(self, letter: DeadLetter, fault: HandlerFault) -> None:
        """Leave it alone for a while; others come first meanwhile."""
        if len(self._deferred) >= DEFERRED_MAX:
            del self._deferred[next(iter(self._deferred))]
        deferral = self._deferred.setdefault(_id_of(letter), _Deferral(0.0))
        deferral.waits += 1
        delay = self._policy.delay_seconds(deferral.waits, self._randomness)
        deferral.due_at = self._clock.monotonic() + delay
        error = f"{type(fault.error).__name__}: {error_facts(fault.error)['error_message']}"
        _log.warning("dead_letter_deferred", **_facts(letter), delay_seconds=round(delay, 3), error=error)

    def _excluded(self) -> list[int]:
        now = self._clock.monotonic()
        return [dead_letter_id for dead_letter_id, deferral in self._deferred.items() if deferral.due_at > now]


def _envelope(letter: DeadLetter, data: str) -> Envelope:
    assert letter.event_id is not None and letter.log_id is not None and letter.position is not None, "a letter that may be tried is whole"
    assert letter.stream_name is not None and letter.version is not None and letter.event_type is not None, "the same"
    assert letter.recorded_at is not None, "the same"
    event = RecordedEvent(
        global_position=letter.position.global_position,
        stream_name=letter.stream_name,
        version=letter.version,
        type=letter.event_type,
        data=data,
        metadata=letter.metadata or {},
        event_id=letter.event_id,
        recorded_at=letter.recorded_at,
    )
    return Envelope(event=event, log_id=letter.log_id, position=letter.position, previous=LOG_START)


def _id_of(letter: DeadLetter) -> int:
    assert letter.dead_letter_id is not None, "a letter that was read has its id"
    return letter.dead_letter_id


def _facts(letter: DeadLetter) -> dict[str, object]:
    return {
        "dead_letter_id": letter.dead_letter_id,
        "group": letter.group,
        "handler": letter.handler_name,
        "event_type": letter.event_type,
        "event_id": str(letter.event_id),
        "stream_name": letter.stream_name,
        "attempts": letter.attempts + 1,
    }
