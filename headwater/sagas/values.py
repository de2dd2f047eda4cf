"""What is told of a saga: its status, steps, deadlines and history."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final, NamedTuple
from uuid import UUID

from headwater.sagas.progress import Phase, Progress, StepRecord

UNDO_WITHIN: Final = timedelta(minutes=1)
"""How long a compensation may go unconfirmed before it is sent again, unless its step says otherwise."""
UNDO_ATTEMPTS_MAX: Final = 5
"""How often a compensation is sent before the saga waits for a person, unless its step says otherwise."""
ENDS_WITHIN: Final = timedelta(days=1)
"""How long a saga may take before it waits for a person, unless its class says otherwise."""
ERROR_CHARACTERS_MAX: Final = 2_000
"""How much of an exception's text is kept."""


class SagaStatus(StrEnum):
    """A saga's phase, or that it waits for a person."""

    RUNNING = "running"
    COMPENSATING = "compensating"
    COMPLETED = "completed"
    COMPENSATED = "compensated"
    STUCK = "stuck"
    """A deadline could not be acted upon, a compensation stays unconfirmed, or the saga takes too long. What it waits for may still come."""


class DeadlineKind(StrEnum):
    """Who set a deadline, and what it means."""

    SAID = "said"
    """The saga's own code; its method acts."""
    UNDO = "undo"
    """Until then a compensation should be confirmed."""
    END = "end"
    """Until then the saga should have ended."""


class DeadlineId(NamedTuple):
    """A deadline of one saga."""

    kind: DeadlineKind
    name: str


END_DEADLINE: Final = DeadlineId(DeadlineKind.END, "end")


@dataclass(frozen=True, slots=True)
class DeadlineSetting:
    """A deadline to be set: at a moment, or so long after now on the database's clock."""

    after_seconds: float = 0.0
    at: datetime | None = None
    period_seconds: float = 0.0
    """How far away to set it when a person lets the saga go on."""
    attempts: int = 0
    error: str | None = None
    is_failed: bool = False
    """It passed and could not be acted upon: the saga waits for a person."""


class Note(NamedTuple):
    """A transition that just happened."""

    kind: str
    subject: str
    detail: str = ""


@dataclass(slots=True)
class SagaRecord:
    """A saga as it is stored; changed by one turn, then saved."""

    saga_type: str
    key: str
    state: str
    """JSON text."""
    progress: Progress
    correlation_id: str
    cause_id: UUID
    """The event it took last."""
    reason: str | None = None
    """Why it compensates."""
    history_count: int = 0
    failed_deadlines: dict[DeadlineId, str] = field(default_factory=dict[DeadlineId, str])
    """Those it waits for a person for, with their errors."""

    def copy(self) -> SagaRecord:
        """One that can be changed by itself."""
        return replace(self, progress=self.progress.copy(), failed_deadlines=dict(self.failed_deadlines))

    @property
    def status(self) -> SagaStatus:
        if self.failed_deadlines and not self.progress.phase.is_end:
            return SagaStatus.STUCK
        return SagaStatus(self.progress.phase.value)


@dataclass(slots=True)
class SagaChanges:
    """What one turn did beside the record itself."""

    deadlines_set: dict[DeadlineId, DeadlineSetting] = field(default_factory=dict[DeadlineId, DeadlineSetting])
    deadlines_removed: set[DeadlineId] = field(default_factory=set[DeadlineId])
    kinds_removed: set[DeadlineKind] = field(default_factory=set[DeadlineKind])
    notes: list[Note] = field(default_factory=list[Note])


@dataclass(frozen=True, slots=True)
class DueDeadline:
    """A deadline that has passed, its saga locked."""

    deadline: DeadlineId
    attempts: int
    period_seconds: float
    record: SagaRecord


# -- what readers get --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SagaDeadline:
    """A deadline that has yet to pass, or that waits for a person."""

    kind: DeadlineKind
    name: str
    due_at: datetime
    attempts: int
    is_failed: bool
    error: str | None


@dataclass(frozen=True, slots=True)
class SagaTransition:
    """One line of a saga's history."""

    number: int
    happened_at: datetime
    kind: str
    """`started`, `event`, `event_ignored`, `step_sent`, `step_done`, `step_failed`, `compensating`, `compensation_sent`, `compensation_repeated`,
    `step_undone`, `deadline_set`, `deadline_cancelled`, `deadline_passed`, `deadline_retried`, `stuck`, `resumed`, `completed`, `compensated`."""
    subject: str
    """The event, step or deadline."""
    detail: str


@dataclass(frozen=True, slots=True)
class SagaSummary:
    """A saga in one line."""

    saga_type: str
    key: str
    status: SagaStatus
    phase: Phase
    reason: str | None
    stuck_because: tuple[str, ...]
    """What it waits for a person for."""
    started_at: datetime
    updated_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class SagaInstance(SagaSummary):
    """A saga with everything that is known of it."""

    state: Mapping[str, Any]
    steps: tuple[StepRecord, ...]
    deadlines: tuple[SagaDeadline, ...]
    history: tuple[SagaTransition, ...]
