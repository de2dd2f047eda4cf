"""Headwater: event sourcing and an event bus, on PostgreSQL and Kafka."""

from headwater.messages import ANY, NO_STREAM, STREAM_EXISTS, AppendResult, Event, NewEvent, RecordedEvent

__all__ = ["ANY", "NO_STREAM", "STREAM_EXISTS", "AppendResult", "Event", "NewEvent", "RecordedEvent"]
