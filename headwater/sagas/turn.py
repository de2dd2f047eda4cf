"""One turn of a saga: an event or a deadline comes, the saga acts, and what follows is gathered until it is saved."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final
from uuid import UUID, uuid5

from headwater.errors import UsageError
from headwater.messages import ANY, IDEMPOTENCY_KEY, AppendResult, Event, ExpectedVersion, NewEvent, with_correlation
from headwater.outbox import outbox_stream
from headwater.randomness import uuid7
from headwater.sagas.definition import Answer, SagaDefinition, Step
from headwater.sagas.ports import SagaEffects
from headwater.sagas.progress import Outcome, Phase, StepRecord, StoredCommand
from headwater.sagas.values import (
    END_DEADLINE,
    ERROR_CHARACTERS_MAX,
    UNDO_ATTEMPTS_MAX,
    UNDO_WITHIN,
    DeadlineId,
    DeadlineKind,
    DeadlineSetting,
    DueDeadline,
    Note,
    SagaChanges,
    SagaRecord,
)

SAGA: Final = "saga"
"""Metadata of every command: which saga sent it, `type/key`."""
SAGA_STEP: Final = "saga_step"
_COMMANDS: Final = UUID("0199a5f0-5a9a-7b3e-9d5e-6f2b1c0d4e8a")
"""The namespace of commands' idempotency keys."""


class Turn:
    """Changes a record, appends in the transaction, and remembers the rest for `SagaStore.save`."""

    def __init__(self, definition: SagaDefinition, record: SagaRecord, effects: SagaEffects) -> None:
        self.definition, self.record, self.effects = definition, record, effects
        self.changes: Final = SagaChanges()

    @property
    def phase(self) -> Phase:
        return self.record.progress.phase

    def note(self, kind: str, subject: str, detail: str = "") -> None:
        """Remember a transition."""
        self.changes.notes.append(Note(kind, subject, detail))

    def begin(self, event_type: str) -> None:
        """The first turn of all."""
        self.note("started", event_type)
        seconds = self.definition.ends_within.total_seconds()
        self._set(END_DEADLINE, DeadlineSetting(after_seconds=seconds, period_seconds=seconds))

    # -- steps ---------------------------------------------------------------------------------------------------------

    async def send(self, step: Step, command: Event, compensation: Event | None) -> None:
        """Send a step's command, and remember how to undo it."""
        self._require_own(step)
        if compensation is not None and compensation.event_category != command.event_category:
            raise UsageError(
                f"the step {step.name!r} sends {command.event_type} to the category {command.event_category!r}, but its compensation "
                f"{compensation.event_type} to {compensation.event_category!r}: it could arrive first. Give both the same category: "
                f'class {compensation.event_type}(Event, category="{command.event_category}")'
            )
        if compensation is None and step.awaits_confirmation:
            raise UsageError(f"the step {step.name!r} names undone_by events, but is sent without a compensation; give one")
        undo = None if compensation is None else _stored(compensation)
        record = self.record.progress.send(step.name, undo, awaits_confirmation=step.awaits_confirmation)
        await self._append_command(_stored(command), record, "do")
        self.note("step_sent", step.name, command.event_type)

    async def answer(self, answer: Answer, event_type: str) -> bool:
        """Take note of what an event says of a step; False when it says nothing new."""
        if not await self.mark(answer.step, answer.outcome, event_type):
            self.note("event_ignored", event_type, f"says nothing new of {answer.step.name}")
            return False
        return True

    async def mark(self, step: Step, outcome: Outcome, detail: str) -> bool:
        """Mark a step, and go on compensating where it was waited for."""
        self._require_own(step)
        if not self.record.progress.answer(step.name, outcome):
            return False
        self.note(f"step_{outcome}", step.name, detail)
        self._remove(DeadlineId(DeadlineKind.UNDO, step.name))
        await self._undo()
        return True

    async def compensate(self, reason: str) -> None:
        """Turn back, sending the first compensations."""
        self.record.progress.compensate()
        self.record.reason = reason[:ERROR_CHARACTERS_MAX]
        self.note("compensating", "", self.record.reason)
        self._remove_kind(DeadlineKind.SAID)
        await self._undo()

    def complete(self) -> None:
        """End well."""
        self.record.progress.complete()
        self._end()

    async def _undo(self) -> None:
        was_ended = self.phase.is_end
        while (step := self.record.progress.undo_next()) is not None:
            await self._send_compensation(step, "compensation_sent", attempts=1)
        if self.phase.is_end and not was_ended:
            self._end()

    async def _send_compensation(self, step: StepRecord, note: str, *, attempts: int) -> None:
        assert step.compensation is not None, "only a step with a compensation is undone"
        await self._append_command(step.compensation, step, "undo")
        self.note(note, step.name, step.compensation.type)
        if step.awaits_confirmation:
            own = self.definition.steps.get(step.name)
            within = own.undone_within if own is not None else UNDO_WITHIN
            self._set(DeadlineId(DeadlineKind.UNDO, step.name), DeadlineSetting(after_seconds=within.total_seconds(), attempts=attempts))

    async def _append_command(self, command: StoredCommand, step: StepRecord, purpose: str) -> None:
        identity = f"{self.record.saga_type}/{self.record.key}"
        metadata = {
            SAGA: identity,
            SAGA_STEP: step.name,
            IDEMPOTENCY_KEY: str(uuid5(_COMMANDS, f"{identity}/{self.record.correlation_id}/{step.name}/{step.round}/{purpose}")),
        }
        event_id = uuid7()
        metadata = dict(with_correlation(metadata, event_id))
        await self.publish(NewEvent(command.type, command.data, category=command.category, event_id=event_id, metadata=metadata))

    def _end(self) -> None:
        for kind in DeadlineKind:
            self._remove_kind(kind)
        self.note(self.phase.value, "", self.record.reason or "")

    def _require_own(self, step: Step) -> None:
        if self.definition.steps.get(step.name) is not step:
            raise UsageError(
                f"{step!r} is no step of {self.definition.saga_class.__name__}; write {step.name or 'it'} = Step(…) in its class"
            )

    # -- deadlines -----------------------------------------------------------------------------------------------------

    def set_deadline(self, name: str, after: timedelta | None, at: datetime | None) -> None:
        """Set, or move, a deadline of the saga's own."""
        if name not in self.definition.deadlines:
            raise UsageError(f'no method acts on the deadline {name!r}; mark one with @on_deadline("{name}")')
        if (after is None) == (at is None):
            raise UsageError(f"set_deadline({name!r}): say either after=timedelta(…) or at=datetime(…)")
        if self.phase is not Phase.RUNNING:
            raise UsageError(f"the saga is {self.phase}; it can set a deadline only while it is running")
        if at is not None and at.tzinfo is None:
            raise UsageError(f"set_deadline({name!r}, at=…) needs an aware moment: datetime(…, tzinfo=UTC)")
        setting = DeadlineSetting(at=at) if after is None else DeadlineSetting(after_seconds=max(after.total_seconds(), 0.0))
        self._set(DeadlineId(DeadlineKind.SAID, name), setting)
        self.note("deadline_set", name, str(after or at))

    def cancel_deadline(self, name: str) -> None:
        """Forget a deadline, if it is set."""
        if name not in self.definition.deadlines:
            raise UsageError(f'no method acts on the deadline {name!r}; mark one with @on_deadline("{name}")')
        self._remove(DeadlineId(DeadlineKind.SAID, name))
        self.note("deadline_cancelled", name)

    def take(self, due: DueDeadline) -> None:
        """The deadline passed, and is acted upon now."""
        self._remove(due.deadline)
        self.note("deadline_passed", due.deadline.name)

    async def confirmation_missing(self, due: DueDeadline) -> None:
        """A compensation was not confirmed in time: send it again, or wait for a person."""
        name = due.deadline.name
        step = self.record.progress.step(name)
        own = self.definition.steps.get(name)
        attempts_max = own.undo_attempts_max if own is not None else UNDO_ATTEMPTS_MAX
        if step is None or step.compensation is None:
            self._remove(due.deadline)
        elif due.attempts >= attempts_max:
            self.fail(due, f"the compensation {step.compensation.type} of {name} was sent {due.attempts} times and never confirmed")
        else:
            await self._send_compensation(step, "compensation_repeated", attempts=due.attempts + 1)

    def fail(self, due: DueDeadline, error: str) -> None:
        """The saga waits for a person from now on, because of this deadline."""
        error = error[:ERROR_CHARACTERS_MAX]
        self._set(due.deadline, DeadlineSetting(attempts=due.attempts, period_seconds=due.period_seconds, error=error, is_failed=True))
        self.record.failed_deadlines[due.deadline] = error
        self.note("stuck", due.deadline.name, error)

    def retry_later(self, due: DueDeadline, error: str, delay_seconds: float) -> None:
        """Its method raised; let it try again."""
        setting = DeadlineSetting(
            after_seconds=delay_seconds, period_seconds=due.period_seconds, attempts=due.attempts + 1, error=error[:ERROR_CHARACTERS_MAX]
        )
        self._set(due.deadline, setting)
        self.note("deadline_retried", due.deadline.name, error[:ERROR_CHARACTERS_MAX])

    def _set(self, deadline: DeadlineId, setting: DeadlineSetting) -> None:
        self.changes.deadlines_removed.discard(deadline)
        self.changes.deadlines_set[deadline] = setting
        self.record.failed_deadlines.pop(deadline, None)

    def _remove(self, deadline: DeadlineId) -> None:
        self.changes.deadlines_set.pop(deadline, None)
        self.changes.deadlines_removed.add(deadline)
        self.record.failed_deadlines.pop(deadline, None)

    def _remove_kind(self, kind: DeadlineKind) -> None:
        changes, record = self.changes, self.record
        changes.kinds_removed.add(kind)
        changes.deadlines_set = {d: s for d, s in changes.deadlines_set.items() if d.kind is not kind}
        record.failed_deadlines = {d: e for d, e in record.failed_deadlines.items() if d.kind is not kind}

    # -- messages ------------------------------------------------------------------------------------------------------

    async def append(self, stream_name: str, events: list[Event | NewEvent], expected_version: ExpectedVersion) -> AppendResult:
        """Append in the turn's transaction."""
        return await self.effects.append(stream_name, events, expected_version=expected_version)

    async def publish(self, message: Event | NewEvent, key: str | None = None) -> AppendResult:
        """Send a message; those of one saga to one category keep their order, unless a key says otherwise."""
        new = message if isinstance(message, NewEvent) else NewEvent.of(message)
        assert new.category is not None, "an event's class has a category"
        stream_name = outbox_stream(new.category, key=key or self.record.key, event_id=new.event_id)
        return await self.effects.append(stream_name, [new], expected_version=ANY)


def _stored(command: Event) -> StoredCommand:
    if not isinstance(command, Event):  # pyright: ignore[reportUnnecessaryIsInstance] - for callers without a type checker
        raise UsageError(f"a command is an instance of an Event class, not {type(command).__name__}")
    new = NewEvent.of(command)
    return StoredCommand(new.type, new.data, command.event_category)
