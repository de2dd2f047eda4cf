"""Sagas without servers: a store in memory, and a stage on which one saga class can be played by hand, clock and all.

stage = MemorySagas(OrderFulfilment)
await stage.give(OrderPlaced(order_id=1))
assert stage.take_sent() == (ReserveStock(order_id=1),)
await stage.advance(timedelta(seconds=31))
assert (await stage.get(OrderFulfilment, 1)).status == "compensating"
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import orjson

from headwater.bus import RetryPolicy, Subscriptions
from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.errors import SagaNotFound
from headwater.eventstore import EventStore
from headwater.messages import Event, EventRegistry
from headwater.privacy import PersonalData
from headwater.randomness import SYSTEM_RANDOMNESS, Randomness
from headwater.sagas import (
    Cause,
    Choreography,
    DeadlineId,
    DueDeadline,
    Progress,
    Saga,
    SagaChanges,
    SagaDeadline,
    SagaEffects,
    SagaInstance,
    SagaRecord,
    SagaStatus,
    SagaSummary,
    SagaTransition,
    definition_of,
    key_text,
    status_of,
    type_name,
)
from headwater.telemetry import Correlation, correlate
from headwater.testing.memory_effects import MemoryEffects, MemoryTransaction
from headwater.testing.memory_keys import MemorySubjectKeys
from headwater.testing.memory_store import MemoryEventStore
from headwater.testing.time import FakeClock

ROUNDS_MAX: Final = 10_000
"""So many deadlines in one `advance` are a saga that sets them for ever."""
_RETRY_POLICY: Final = RetryPolicy(attempts_max=5, first_delay_seconds=0.25, delay_seconds_max=30.0, jitter=0.0)


@dataclass(frozen=True, slots=True)
class _Deadline:
    due_at: datetime
    period_seconds: float
    attempts: int
    is_failed: bool
    error: str | None


@dataclass(slots=True)
class _Row:
    record: SagaRecord
    started_at: datetime
    updated_at: datetime
    ended_at: datetime | None = None
    deadlines: dict[DeadlineId, _Deadline] = field(default_factory=dict[DeadlineId, _Deadline])
    history: list[SagaTransition] = field(default_factory=list[SagaTransition])

    def copy(self) -> _Row:
        return replace(self, record=self.record.copy(), deadlines=dict(self.deadlines), history=list(self.history))


class MemorySagaStore:
    """A `SagaStore` and a reader in memory. Transactions take turns, so nothing needs locking; `MemorySagaEffects` says what was committed."""

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        """Begin without sagas; deadlines pass on this clock."""
        self._clock = clock
        self._rows: dict[tuple[str, str], _Row] = {}
        self._pending: dict[tuple[str, str], _Row] = {}

    def begin(self) -> None:
        """A transaction begins, and nothing of one before it that was rolled back."""
        self._pending.clear()

    def commit(self) -> None:
        """The transaction was committed."""
        self._rows.update(self._pending)
        self._pending.clear()

    @property
    def is_changing(self) -> bool:
        """Whether the transaction that has its turn saved something."""
        return bool(self._pending)

    async def start(
        self,
        effects: SagaEffects,  # noqa: ARG002 - the transaction is the one that has its turn
        *,
        saga_type: str,
        key: str,
        state: str,
        correlation_id: str,
        cause_id: UUID,
    ) -> SagaRecord | None:
        """A new saga; see `SagaStore.start`."""
        if self._find(saga_type, key) is not None:
            return None
        return SagaRecord(saga_type, key, state, Progress(), correlation_id, cause_id)

    async def load(self, effects: SagaEffects, saga_type: str, key: str) -> SagaRecord | None:  # noqa: ARG002 - as above
        """The saga; see `SagaStore.load`."""
        row = self._find(saga_type, key)
        return None if row is None else row.record.copy()

    async def save(self, effects: SagaEffects, record: SagaRecord, changes: SagaChanges) -> None:  # noqa: ARG002 - as above
        """Keep what a turn made of it; see `SagaStore.save`."""
        now = self._clock.now()
        found = self._find(record.saga_type, record.key)
        row = _Row(record.copy(), now, now) if found is None else replace(found.copy(), record=record.copy(), updated_at=now)
        row.ended_at = now if record.progress.phase.is_end else None
        for deadline in list(row.deadlines):
            if deadline in changes.deadlines_removed or deadline.kind in changes.kinds_removed:
                del row.deadlines[deadline]
        for deadline, setting in changes.deadlines_set.items():
            due_at = setting.at or now + timedelta(seconds=setting.after_seconds)
            row.deadlines[deadline] = _Deadline(due_at, setting.period_seconds, setting.attempts, setting.is_failed, setting.error)
        for note in changes.notes:
            row.history.append(SagaTransition(len(row.history) + 1, now, *note))
        row.record.history_count = len(row.history)
        self._pending[record.saga_type, record.key] = row

    async def claim_due(self, effects: SagaEffects, saga_types: Sequence[str]) -> DueDeadline | None:  # noqa: ARG002 - as above
        """A deadline that has passed; see `SagaStore.claim_due`."""
        found = self._next(saga_types)
        if found is None or found[0] > self._clock.now():
            return None
        _, deadline, row = found
        known = row.deadlines[deadline]
        return DueDeadline(deadline, known.attempts, known.period_seconds, row.record.copy())

    async def seconds_to_next(self, effects: SagaEffects, saga_types: Sequence[str]) -> float | None:  # noqa: ARG002 - as above
        """How long until the next deadline; see `SagaStore.seconds_to_next`."""
        found = self._next(saga_types)
        return None if found is None else (found[0] - self._clock.now()).total_seconds()

    async def list(
        self, *, status: SagaStatus | str | None = None, saga_type: str | type | None = None, limit: int = 100
    ) -> tuple[SagaSummary, ...]:
        """The newest sagas; see `Sagas.list`."""
        wanted = None if status is None else status_of(status)
        name = None if saga_type is None else type_name(saga_type)
        rows = sorted(self._rows.values(), key=lambda row: row.started_at, reverse=True)
        matching = [row for row in rows if wanted in {None, row.record.status} and name in {None, row.record.saga_type}]
        return tuple(SagaSummary(**_summary(row)) for row in matching[:limit])

    async def get(self, saga_type: str | type, key: object) -> SagaInstance:
        """One saga; see `Sagas.get`.

        Raises:
            SagaNotFound: none of this type and key has begun.
        """
        name, text = type_name(saga_type), key_text(key)
        row = self._rows.get((name, text))
        if row is None:
            raise SagaNotFound(f"there is no saga {name} {text!r}")
        deadlines = sorted(row.deadlines.items(), key=lambda item: (item[1].due_at, item[0]))
        return SagaInstance(
            **_summary(row),
            state=orjson.loads(row.record.state),
            steps=row.record.progress.steps,
            deadlines=tuple(SagaDeadline(d.kind, d.name, v.due_at, v.attempts, v.is_failed, v.error) for d, v in deadlines),
            history=tuple(row.history),
        )

    async def count(self, *, saga_type: str | type | None = None) -> dict[SagaStatus, int]:
        """How many there are of each status; see `Sagas.count`."""
        name = None if saga_type is None else type_name(saga_type)
        statuses = [row.record.status for row in self._rows.values() if name in {None, row.record.saga_type}]
        return {status: statuses.count(status) for status in SagaStatus}

    def _find(self, saga_type: str, key: str) -> _Row | None:
        return self._pending.get((saga_type, key)) or self._rows.get((saga_type, key))

    def _next(self, saga_types: Sequence[str]) -> tuple[datetime, DeadlineId, _Row] | None:
        open_ones = [
            (known.due_at, deadline, row)
            for (saga_type, _), row in self._rows.items()
            if saga_type in saga_types
            for deadline, known in row.deadlines.items()
            if not known.is_failed
        ]
        return min(open_ones, key=lambda found: (found[0], found[1]), default=None)


class MemorySagaEffects(MemoryEffects):
    """`MemoryEffects` whose transactions keep sagas, too."""

    def __init__(
        self, store: EventStore, sagas: MemorySagaStore, *, clock: Clock = SYSTEM_CLOCK, personal: PersonalData | None = None
    ) -> None:
        """Commit to this event store and these sagas together."""
        super().__init__(store, clock=clock, personal=personal)
        self.sagas = sagas

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[MemoryTransaction]:
        """Commits at the end of the block, the sagas as well."""
        async with super().transaction() as transaction:
            self.sagas.begin()
            yield transaction

    def _is_change(self, transaction: MemoryTransaction) -> bool:
        return super()._is_change(transaction) or self.sagas.is_changing

    def _committed(self) -> None:
        super()._committed()
        self.sagas.commit()


def _event_classes_beside(saga_class: type[Saga]) -> list[type[Event]]:
    """Those that the saga's module names: commands among them, which another module may have classes of the same name for."""
    named = vars(sys.modules[saga_class.__module__]).values()
    return [value for value in named if isinstance(value, type) and issubclass(value, Event) and value is not Event]


class MemorySagas:
    """Plays sagas by hand: give events, look at what was sent, let time pass. Every event is one transaction."""

    def __init__(self, *saga_classes: type[Saga], clock: FakeClock | None = None, randomness: Randomness = SYSTEM_RANDOMNESS) -> None:
        """Begin with nothing stored, at the clock's moment."""
        self.clock = clock or FakeClock()
        self.log = MemoryEventStore(clock=self.clock)
        self.store = MemorySagaStore(clock=self.clock)
        self._registry, self._randomness, self._taken = EventRegistry(), randomness, 0
        self._keys = MemorySubjectKeys(clock=self.clock)
        personal = PersonalData(self._keys, self._registry, clock=self.clock)
        self._effects = MemorySagaEffects(self.log, self.store, clock=self.clock, personal=personal)
        self._choreography = Choreography(Subscriptions(), store=self.store, retry_policy=_RETRY_POLICY, clock=self.clock)
        for saga_class in saga_classes:
            self._choreography.register(saga_class)
            for event_class in (*definition_of(saga_class).event_classes, *_event_classes_beside(saga_class)):
                self._registry.register(event_class)

    @property
    def sent(self) -> tuple[Event, ...]:
        """Everything that the sagas sent, published or appended, in order."""
        return tuple(self._registry.decode(recorded) for recorded in self._keys.open(self.log.events))

    def take_sent(self) -> tuple[Event, ...]:
        """What was sent since the last call."""
        sent = self.sent[self._taken :]
        self._taken += len(sent)
        return sent

    async def give(self, *events: Event) -> None:
        """Let the sagas take these events, one after another, as the bus would.

        Raises:
            Exception: whatever a method raised; that event then changed nothing.
        """
        for event in events:
            event_id = self._randomness.uuid7()
            with correlate(Correlation(str(event_id), str(event_id))):
                async with self._effects.transaction() as transaction:
                    for definition in self._choreography.definitions:
                        if type(event) in definition.event_classes:
                            await self._choreography.take(definition, event, transaction, Cause(event_id, str(event_id)))

    async def advance(self, by: timedelta) -> None:
        """Let time pass, acting on each deadline at its moment. A method that raises is tried again and then leaves its saga stuck."""
        end = self.clock.now() + by
        for _ in range(ROUNDS_MAX):
            async with self._effects.transaction() as transaction:
                if await self._choreography.act_on_next_deadline(transaction) is not None:
                    continue
                seconds = await self._choreography.seconds_to_next_deadline(transaction)
            left = (end - self.clock.now()).total_seconds()
            if seconds is None or seconds > left:
                await self.clock.advance(left)
                return
            await self.clock.advance(seconds)
        raise AssertionError(f"more than {ROUNDS_MAX} deadlines passed within {by}; a saga sets one for ever")

    async def get(self, saga_type: type[Saga] | str, key: object) -> SagaInstance:
        """One saga.

        Raises:
            SagaNotFound: none of this type and key has begun.
        """
        return await self.store.get(saga_type, key)


def _summary(row: _Row) -> dict[str, Any]:
    record = row.record
    return {
        "saga_type": record.saga_type,
        "key": record.key,
        "status": record.status,
        "phase": record.progress.phase,
        "reason": record.reason,
        "stuck_because": tuple(f"{deadline.name}: {error}" for deadline, error in record.failed_deadlines.items()),
        "started_at": row.started_at,
        "updated_at": row.updated_at,
        "ended_at": row.ended_at,
    }
