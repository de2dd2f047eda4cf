"""The steps of one saga: which ran, which may have run, and what is to be undone next. Pure: no clock, no database, no messages.

A step is sent, then done or failed; the first answer counts. Compensation begins with the step that was sent last and goes back one by one:
each step that is done, or whose outcome is unknown, is undone; the one before it has its turn once that is confirmed. Steps known to
have failed, and steps without a compensation, are passed over. Whatever comes late or twice changes nothing, except that a step that turns out
to have failed needs no confirmation any more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from headwater.errors import UsageError

STEPS_MAX: Final = 100
"""The most steps one saga may have sent."""


class Phase(StrEnum):
    """Where a saga is in its life."""

    RUNNING = "running"
    COMPENSATING = "compensating"
    COMPLETED = "completed"
    COMPENSATED = "compensated"

    @property
    def is_end(self) -> bool:
        return self in {Phase.COMPLETED, Phase.COMPENSATED}


class StepStatus(StrEnum):
    """What is known of a step."""

    SENT = "sent"
    """Nobody knows whether it ran."""
    DONE = "done"
    FAILED = "failed"
    """It had no effect."""
    UNDOING = "undoing"
    """Its compensation was sent and is not confirmed yet."""
    UNDONE = "undone"


class Outcome(StrEnum):
    """What an answer says of a step."""

    DONE = "done"
    FAILED = "failed"
    UNDONE = "undone"


@dataclass(frozen=True, slots=True)
class StoredCommand:
    """A command as it will be sent, whatever its class looks like by then."""

    type: str
    data: str
    category: str


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step that was sent."""

    name: str
    status: StepStatus = StepStatus.SENT
    compensation: StoredCommand | None = None
    awaits_confirmation: bool = False
    """Whether an event will say that the compensation took effect."""
    round: int = 1
    """How often it was sent; a step that failed may be sent again."""

    @property
    def may_need_undoing(self) -> bool:
        return self.compensation is not None and self.status in {StepStatus.SENT, StepStatus.DONE}


class Progress:
    """A saga's phase and steps, in the order in which they were sent."""

    __slots__ = ("_steps", "phase")

    def __init__(self, phase: Phase = Phase.RUNNING, steps: Iterable[StepRecord] = ()) -> None:
        self.phase = phase
        self._steps = {step.name: step for step in steps}

    @property
    def steps(self) -> tuple[StepRecord, ...]:
        return tuple(self._steps.values())

    def step(self, name: str) -> StepRecord | None:
        """The step of this name, if it was sent."""
        return self._steps.get(name)

    def copy(self) -> Progress:
        """One that can be changed by itself."""
        return Progress(self.phase, self.steps)

    def send(self, name: str, compensation: StoredCommand | None, *, awaits_confirmation: bool) -> StepRecord:
        """Add a step at the end.

        Raises:
            UsageError: the saga no longer runs, or the step was sent before and did not fail.
        """
        self._require_running(f"send the step {name!r}")
        before = self._steps.get(name)
        if before is not None and before.status is not StepStatus.FAILED:
            raise UsageError(f"the step {name!r} was sent already and is {before.status}; only a step that failed can be sent again")
        if before is None and len(self._steps) >= STEPS_MAX:
            raise UsageError(f"a saga has at most {STEPS_MAX} steps")
        # Taken out and put in again, so that it stands where it was sent last.
        self._steps.pop(name, None)
        step = StepRecord(name, compensation=compensation, awaits_confirmation=awaits_confirmation, round=before.round + 1 if before else 1)
        self._steps[name] = step
        return step

    def answer(self, name: str, outcome: Outcome) -> bool:
        """Take note of an answer; False when it says nothing new. Ask `undo_next` afterwards."""
        step = self._steps.get(name)
        if step is None or self.phase.is_end:
            return False
        match outcome, step.status:
            case Outcome.DONE, StepStatus.SENT:
                self._mark(step, StepStatus.DONE)
            case Outcome.FAILED, StepStatus.SENT | StepStatus.UNDOING:
                self._mark(step, StepStatus.FAILED)
            case Outcome.UNDONE, StepStatus.UNDOING:
                self._mark(step, StepStatus.UNDONE)
            case _:
                return False
        return True

    def compensate(self) -> None:
        """Turn back. Ask `undo_next` afterwards.

        Raises:
            UsageError: the saga does so already, or has ended.
        """
        self._require_running("compensate")
        self.phase = Phase.COMPENSATING

    def complete(self) -> None:
        """End well.

        Raises:
            UsageError: the saga compensates, or has ended.
        """
        self._require_running("complete")
        self.phase = Phase.COMPLETED

    def undo_next(self) -> StepRecord | None:
        """The step whose compensation is to be sent now; call it until it gives None. The last one ends the saga."""
        if self.phase is not Phase.COMPENSATING or any(step.status is StepStatus.UNDOING for step in self.steps):
            return None
        step = next((step for step in reversed(self.steps) if step.may_need_undoing), None)
        if step is None:
            self.phase = Phase.COMPENSATED
            return None
        return self._mark(step, StepStatus.UNDOING if step.awaits_confirmation else StepStatus.UNDONE)

    def _mark(self, step: StepRecord, status: StepStatus) -> StepRecord:
        marked = self._steps[step.name] = replace(step, status=status)
        return marked

    def _require_running(self, wish: str) -> None:
        if self.phase is not Phase.RUNNING:
            raise UsageError(f"the saga is {self.phase}; it can {wish} only while it is running")
