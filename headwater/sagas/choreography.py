"""The sagas of one service: events and deadlines come in, turns are played, and what they made is saved in the same transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from uuid import UUID

from headwater.bus import Context, EffectsRefused, EffectTransaction, RetryPolicy, Subscriptions
from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.errors import HandlerFailed, SagaNotFound, StorageUnavailable, TransactionConflict, UsageError
from headwater.messages import Event
from headwater.randomness import SYSTEM_RANDOMNESS, Randomness
from headwater.sagas.context import SagaContext
from headwater.sagas.definition import Answer, SagaDefinition, definition_of
from headwater.sagas.ports import SagaEffects, SagaStore
from headwater.sagas.postgres import PostgresSagaStore
from headwater.sagas.progress import Outcome, Phase
from headwater.sagas.saga import Saga, decode_state, encode_state
from headwater.sagas.turn import Turn
from headwater.sagas.values import DeadlineId, DeadlineKind, DueDeadline, SagaRecord
from headwater.telemetry import Correlation, correlate, logger

DEADLINE_SECONDS_MAX: Final = 30.0
"""A deadline's method that takes longer has failed; as long as a handler may take."""
DEADLINE_RETRY: Final = RetryPolicy(attempts_max=5, first_delay_seconds=0.25, delay_seconds_max=30.0)
"""How often a deadline's method is tried, and when, before its saga waits for a person."""

SagaClassT = TypeVar("SagaClassT", bound=type[Saga])
_log = logger("sagas")


@dataclass(frozen=True, slots=True)
class Cause:
    """The event that a saga takes."""

    event_id: UUID
    correlation_id: str


class Choreography:
    """Registers sagas as handlers of a service's events, and acts on their deadlines.

    Exactly-once comes from the consumer: a turn's effects and the position in the topic commit together.
    """

    def __init__(
        self,
        subscriptions: Subscriptions,
        *,
        store: SagaStore | None = None,
        retry_policy: RetryPolicy = DEADLINE_RETRY,
        clock: Clock = SYSTEM_CLOCK,
        randomness: Randomness = SYSTEM_RANDOMNESS,
    ) -> None:
        """Add to these subscriptions. The store is PostgreSQL's unless told otherwise; tests put one in memory in its place."""
        self.store: SagaStore = store or PostgresSagaStore()
        self.clock = clock
        self._subscriptions, self._policy, self._randomness = subscriptions, retry_policy, randomness
        self._definitions: dict[str, SagaDefinition] = {}
        self._spoilers: dict[tuple[str, str, DeadlineId], Exception] = {}
        """Deadlines whose method left a transaction in which its failure could not be kept."""

    @property
    def definitions(self) -> tuple[SagaDefinition, ...]:
        return tuple(self._definitions.values())

    def __len__(self) -> int:
        return len(self._definitions)

    def register(self, saga_class: SagaClassT) -> SagaClassT:
        """Let this saga take its events.

        Raises:
            UsageError: it is no saga, or another has its name.
        """
        definition = definition_of(saga_class)
        if (known := self._definitions.get(definition.name)) is not None:
            raise UsageError(f"two sagas are named {definition.name!r}: {known.saga_class.__name__} and {saga_class.__name__}; rename one")

        async def take(event: Event, context: Context) -> None:
            await self.take(definition, event, context, Cause(context.event_id, context.recorded.correlation_id))

        # The name by which dead letters know it.
        take.__name__ = take.__qualname__ = saga_class.__qualname__
        self._subscriptions.on(*definition.event_classes)(take)
        self._definitions[definition.name] = definition
        return saga_class

    @contextmanager
    def kept_in(self, store: SagaStore, *, clock: Clock) -> Generator[None]:
        """Keep sagas in another store, on another clock, while the block runs: a test's, in memory."""
        before = self.store, self.clock
        self.store, self.clock = store, clock
        try:
            yield
        finally:
            self.store, self.clock = before

    # -- events --------------------------------------------------------------------------------------------------------

    async def take(self, definition: SagaDefinition, event: Event, effects: SagaEffects, cause: Cause) -> None:
        """Give an event to the saga that it belongs to, in a transaction that somebody else commits."""
        key = definition.key_of(event)
        if key is None:
            return
        is_start = event.event_type in definition.starts
        record = await (self._start(definition, key, effects, cause) if is_start else self.store.load(effects, definition.name, key))
        if record is None or record.progress.phase.is_end:
            self._pass_over(definition, key, event, record, is_start=is_start)
            return
        record.cause_id = cause.event_id
        turn = Turn(definition, record, effects)
        if is_start:
            turn.begin(event.event_type)
        await self._play(turn, event, is_start=is_start)
        await self._save(turn)

    async def _start(self, definition: SagaDefinition, key: str, effects: SagaEffects, cause: Cause) -> SagaRecord | None:
        state = encode_state(definition.saga_class())
        return await self.store.start(
            effects, saga_type=definition.name, key=key, state=state, correlation_id=cause.correlation_id, cause_id=cause.event_id
        )

    def _pass_over(self, definition: SagaDefinition, key: str, event: Event, record: SagaRecord | None, *, is_start: bool) -> None:
        why = "began before" if is_start else "not begun" if record is None else f"is {record.status}"
        if record is None and not is_start and definition.unmatched == "fail":
            raise SagaNotFound(f"{event.event_type} came for {definition.name} {key!r}, which has not begun")
        _log.info("saga_event_passed_over", saga_type=definition.name, saga_key=key, event_type=event.event_type, why=why)

    async def _play(self, turn: Turn, event: Event, *, is_start: bool) -> None:
        definition, event_type = turn.definition, event.event_type
        answer = definition.answers.get(event_type)
        if not is_start:
            turn.note("event", event_type, str(turn.record.cause_id))
        if answer is not None and not await turn.answer(answer, event_type):
            return
        method = (definition.starts if is_start else definition.handlers).get(event_type)
        if turn.phase is Phase.RUNNING:
            if method is not None:
                await self._call(turn, method, event)
            elif _is_failure(answer):
                assert answer is not None, "a failure is an answer"
                await turn.compensate(f"{answer.step.name} failed: {event_type}")
        elif method is not None and answer is None:
            turn.note("event_ignored", event_type, f"the saga is {turn.phase}")
        await self._finish(turn)

    # -- deadlines -----------------------------------------------------------------------------------------------------

    async def act_on_next_deadline(self, transaction: EffectTransaction) -> DueDeadline | None:
        """Act on one deadline that has passed, in this transaction; None when there is none now.

        A method that raises is undone and tried again later; one that keeps raising leaves its saga waiting for a person.

        Raises:
            StorageUnavailable, TransactionConflict: roll back and try again; nobody is to blame.
        """
        due = await self.store.claim_due(transaction, tuple(self._definitions))
        if due is None:
            return None
        record = due.record
        definition = self._definitions[record.saga_type]
        with correlate(Correlation(record.correlation_id, str(record.cause_id))):
            turn = Turn(definition, record, transaction)
            if due.deadline.kind is DeadlineKind.END:
                turn.fail(due, f"it has not ended within {definition.ends_within}")
            elif due.deadline.kind is DeadlineKind.UNDO:
                await turn.confirmation_missing(due)
            else:
                await self._act_guarded(due, definition, transaction)
                return due
            await self._save(turn)
        return due

    async def seconds_to_next_deadline(self, transaction: EffectTransaction) -> float | None:
        """How long until the next deadline of these sagas passes; None when none is set."""
        return await self.store.seconds_to_next(transaction, tuple(self._definitions))

    async def _act_guarded(self, due: DueDeadline, definition: SagaDefinition, transaction: EffectTransaction) -> None:
        identity = (definition.name, due.record.key, due.deadline)
        untouched = due.record.copy()
        failure = self._spoilers.pop(identity, None)
        if failure is None:
            try:
                async with transaction.savepoint():
                    await self._act(Turn(definition, due.record, transaction), due)
            except Exception as error:
                failure = transaction.interpret(error)
                if isinstance(failure, (StorageUnavailable, TransactionConflict)):
                    raise failure from error
                try:
                    transaction.require_open()
                except EffectsRefused:
                    self._spoilers[identity] = failure
                    raise
        if failure is not None:
            await self._keep_failure(Turn(definition, untouched, transaction), due, f"{type(failure).__name__}: {failure}")

    async def _keep_failure(self, turn: Turn, due: DueDeadline, failure: str) -> None:
        attempts = due.attempts + 1
        if attempts >= self._policy.attempts_max:
            turn.fail(due, f"{failure} (tried {attempts} times)")
        else:
            turn.retry_later(due, failure, self._policy.delay_seconds(attempts, self._randomness))
        _log.warning(
            "saga_deadline_failed",
            saga_type=turn.record.saga_type,
            saga_key=turn.record.key,
            deadline=due.deadline.name,
            attempt=attempts,
            attempts_max=self._policy.attempts_max,
            error=failure,
        )
        await self._save(turn)

    async def _act(self, turn: Turn, due: DueDeadline) -> None:
        turn.take(due)
        method = turn.definition.deadlines.get(due.deadline.name)
        if method is None:
            raise UsageError(f"no method acts on the deadline {due.deadline.name!r} any more")
        if turn.phase is Phase.RUNNING:
            limit = asyncio.timeout(DEADLINE_SECONDS_MAX)
            try:
                async with limit:
                    await self._call(turn, method)
                    await self._finish(turn)
            except TimeoutError as error:
                if not limit.expired():
                    raise
                raise HandlerFailed(f"{method.__qualname__} took longer than {DEADLINE_SECONDS_MAX} s") from error
        await self._save(turn)

    # -- methods -------------------------------------------------------------------------------------------------------

    async def _call(self, turn: Turn, method: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        saga = decode_state(turn.definition.saga_class, turn.record.key, turn.record.state)
        context = SagaContext(turn, self.clock)
        try:
            await method(saga, *arguments, context)
        finally:
            context.close()
        turn.record.state = encode_state(saga)

    async def _finish(self, turn: Turn) -> None:
        """The last word, when this turn undid the last step."""
        if turn.phase is Phase.COMPENSATED and turn.definition.compensated is not None:
            await self._call(turn, turn.definition.compensated)

    async def _save(self, turn: Turn) -> None:
        record = turn.record
        await self.store.save(turn.effects, record, turn.changes)
        kinds = {note.kind for note in turn.changes.notes}
        if "started" in kinds:
            _log.debug("saga_started", saga_type=record.saga_type, saga_key=record.key)
        if "compensating" in kinds:
            _log.debug("saga_compensates", saga_type=record.saga_type, saga_key=record.key, reason=record.reason)
        if record.progress.phase.is_end:
            _log.debug("saga_ended", saga_type=record.saga_type, saga_key=record.key, phase=record.progress.phase.value)
        if "stuck" in kinds:
            errors = [f"{deadline.name}: {error}" for deadline, error in record.failed_deadlines.items()]
            _log.error("saga_stuck", saga_type=record.saga_type, saga_key=record.key, errors=errors)


def _is_failure(answer: Answer | None) -> bool:
    return answer is not None and answer.outcome is Outcome.FAILED
