"""Headwater: event sourcing and an event bus, on PostgreSQL and Kafka.

Start at `Service`; `docs/` and `examples/` tell the rest. The names are imported when they are first used: pytest imports this package in every
project that has it installed, for the fixtures in `headwater.testing`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headwater.bus import (
        BatchContext,
        CallNext,
        Context,
        DeadLetterIt,
        Firing,
        HandlerCall,
        MessageDeadLettered,
        Park,
        RetryPolicy,
        Skip,
        Stop,
    )
    from headwater.eventstore import Decider, Decision
    from headwater.messages import ANY, NO_STREAM, STREAM_EXISTS, AppendResult, Event, NewEvent, RecordedEvent
    from headwater.personal import Personal
    from headwater.projections import Projection, SqlProjection, on
    from headwater.sagas import Saga, SagaContext, Step, on_deadline, starts_on, when_compensated
    from headwater.service import Service

_HOMES = {
    "ANY": "headwater.messages",
    "NO_STREAM": "headwater.messages",
    "STREAM_EXISTS": "headwater.messages",
    "AppendResult": "headwater.messages",
    "BatchContext": "headwater.bus",
    "CallNext": "headwater.bus",
    "HandlerCall": "headwater.bus",
    "Context": "headwater.bus",
    "DeadLetterIt": "headwater.bus",
    "Decider": "headwater.eventstore",
    "Decision": "headwater.eventstore",
    "Event": "headwater.messages",
    "MessageDeadLettered": "headwater.bus",
    "Firing": "headwater.bus",
    "NewEvent": "headwater.messages",
    "Park": "headwater.bus",
    "Personal": "headwater.personal",
    "Projection": "headwater.projections",
    "RecordedEvent": "headwater.messages",
    "RetryPolicy": "headwater.bus",
    "Saga": "headwater.sagas",
    "SagaContext": "headwater.sagas",
    "Service": "headwater.service",
    "Skip": "headwater.bus",
    "SqlProjection": "headwater.projections",
    "Step": "headwater.sagas",
    "Stop": "headwater.bus",
    "on": "headwater.projections",
    "on_deadline": "headwater.sagas",
    "starts_on": "headwater.sagas",
    "when_compensated": "headwater.sagas",
}

__all__ = [
    "ANY",
    "NO_STREAM",
    "STREAM_EXISTS",
    "AppendResult",
    "BatchContext",
    "CallNext",
    "Context",
    "DeadLetterIt",
    "Decider",
    "Decision",
    "Event",
    "Firing",
    "HandlerCall",
    "MessageDeadLettered",
    "NewEvent",
    "Park",
    "Personal",
    "Projection",
    "RecordedEvent",
    "RetryPolicy",
    "Saga",
    "SagaContext",
    "Service",
    "Skip",
    "SqlProjection",
    "Step",
    "Stop",
    "on",
    "on_deadline",
    "starts_on",
    "when_compensated",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(_HOMES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
