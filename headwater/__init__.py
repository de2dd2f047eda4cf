"""Headwater: event sourcing and an event bus, on PostgreSQL and Kafka.

Start at `Service`; `docs/` and `examples/` tell the rest.
"""

from headwater.bus import Context
from headwater.eventstore import Decider, Decision
from headwater.messages import ANY, NO_STREAM, STREAM_EXISTS, AppendResult, Event, NewEvent, RecordedEvent
from headwater.projections import Projection, SqlProjection, on
from headwater.service import Service

__all__ = [
    "ANY",
    "NO_STREAM",
    "STREAM_EXISTS",
    "AppendResult",
    "Context",
    "Decider",
    "Decision",
    "Event",
    "NewEvent",
    "Projection",
    "RecordedEvent",
    "Service",
    "SqlProjection",
    "on",
]
