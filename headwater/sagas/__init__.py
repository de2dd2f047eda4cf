"""Long stories: choreographed sagas that react to events, send commands, keep state, set deadlines, and undo what may have run.

Who is authoritative: the saga's row in `headwater.sagas`, locked (`FOR NO KEY UPDATE`) from the moment an event or a deadline reaches it until
that transaction ends. So events from any partition, of any process, and its deadlines take turns; the one that comes second sees what the first
left. State, commands, deadlines, history and the bus's position commit together: a saga is a handler of the consumer, which applies
every event once. A deadline is a row in `headwater.saga_deadlines`, on the database's clock; it is acted on in a transaction that removes it.

Lock order: the saga first, then whatever its turn touches. Deadlines are changed under their saga's lock alone, and whoever looks for due ones
skips locked sagas, so that the clockwork waits for nobody.

States of a saga: running → completed, or running → compensating → compensated. It is `stuck`, visibly, while a deadline waits for a person: one
whose method kept failing, a compensation that was sent several times and never confirmed, or the time within which the saga should have
ended. What it waits for may still come and lets it go on; `Sagas.retry` does so by hand.

What can fail: a saga's method on an event (the bus tries again, then keeps a dead letter; the saga stays where it was and is stuck at the latest when
its time is up), or on a deadline (above); the database (waited out). Commands may be sent again with the same `idempotency_key`.
"""

from headwater.projections import on
from headwater.sagas.choreography import Cause, Choreography
from headwater.sagas.context import SagaContext
from headwater.sagas.deadlines import DeadlineWorker, SagaDeadlines
from headwater.sagas.definition import SagaDefinition, Step, definition_of, key_text, on_deadline, starts_on, when_compensated
from headwater.sagas.ports import SagaEffects, SagaReader, SagaStore
from headwater.sagas.postgres import PostgresSagaStore, Sagas, status_of, type_name
from headwater.sagas.progress import Outcome, Phase, Progress, StepRecord, StepStatus, StoredCommand
from headwater.sagas.saga import Saga
from headwater.sagas.values import (
    DeadlineId,
    DeadlineKind,
    DeadlineSetting,
    DueDeadline,
    SagaChanges,
    SagaDeadline,
    SagaInstance,
    SagaRecord,
    SagaStatus,
    SagaSummary,
    SagaTransition,
)

__all__ = [
    "Cause",
    "Choreography",
    "DeadlineId",
    "DeadlineKind",
    "DeadlineSetting",
    "DeadlineWorker",
    "DueDeadline",
    "Outcome",
    "Phase",
    "PostgresSagaStore",
    "Progress",
    "Saga",
    "SagaChanges",
    "SagaContext",
    "SagaDeadline",
    "SagaDeadlines",
    "SagaDefinition",
    "SagaEffects",
    "SagaInstance",
    "SagaReader",
    "SagaRecord",
    "SagaStatus",
    "SagaStore",
    "SagaSummary",
    "SagaTransition",
    "Sagas",
    "Step",
    "StepRecord",
    "StepStatus",
    "StoredCommand",
    "definition_of",
    "key_text",
    "on",
    "on_deadline",
    "starts_on",
    "status_of",
    "type_name",
    "when_compensated",
]
