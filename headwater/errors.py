"""Every error Headwater raises, by whose move it is.

Each class carries its facts as typed attributes, says in `retryable` whether the same call may succeed later, and in its docstring whose
move it is. Driver errors are translated into these once, in the adapter that met them.
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar
from uuid import UUID


class HeadwaterError(Exception):
    """Anything Headwater raises on purpose."""

    retryable: ClassVar[bool] = False


# -- the caller's mistake ---------------------------------------------------------------------------------------------


class UsageError(HeadwaterError):
    """The call itself is wrong; the caller changes the code or the configuration."""


class ConfigurationError(UsageError):
    """A setting is missing, malformed or contradicts another; whoever runs the service mends it."""


class StoreNotOpen(UsageError):
    """The store was used before it was opened or after it was closed; use it inside `async with`."""


class TargetNotFound(UsageError):
    """A `module:attribute` on the command line names nothing that can be run."""


class InvalidStreamName(UsageError):
    """The stream name breaks a limit; the caller chooses another."""


class InvalidEvent(UsageError):
    """The event cannot be stored or sent (size, encoding, a value JSON or PostgreSQL lacks); nothing was stored."""


class SealBroken(InvalidEvent):
    """A sealed personal value was altered, or moved to another place; an operator restores it. Nothing is passed on unopened."""


class UnknownEventType(UsageError):
    """No event class of this name is registered; the caller defines, imports or registers it."""

    def __init__(self, message: str, *, event_type: str) -> None:
        super().__init__(message)
        self.event_type = event_type


# -- somebody else was first ------------------------------------------------------------------------------------------


class ConcurrencyError(HeadwaterError):
    """Another writer was first."""


class WrongExpectedVersion(ConcurrencyError):
    """The stream is not where the caller believed; load it again and decide again."""

    retryable = True

    def __init__(self, *, stream_name: str, expected: str, actual_version: int) -> None:
        self.stream_name, self.expected, self.actual_version = stream_name, expected, actual_version
        found = f"has {actual_version} events" if actual_version else "does not exist"
        super().__init__(
            f"stream {stream_name!r} {found}, but the append expected {expected}; nothing was stored: load the stream again and decide again"
        )


class DuplicateEvent(ConcurrencyError):
    """An event id is already stored with other company; the caller gives new ids, or repeats the first append exactly."""

    def __init__(self, message: str, *, event_id: UUID | None = None) -> None:
        super().__init__(message)
        self.event_id = event_id


class ConditionFailed(ConcurrencyError):
    """Another event that the decision depends on came since it was read; read again and decide again."""

    retryable = True

    def __init__(self, message: str, *, event_id: UUID | None = None, global_position: int | None = None) -> None:
        super().__init__(message)
        self.event_id, self.global_position = event_id, global_position


class LockTimeout(ConcurrencyError):
    """What is needed is held by another open transaction, for longer than this call waits; repeat it, or end that transaction."""

    retryable = True


class AppendBlocked(LockTimeout):
    """Another open transaction holds a stream of this append; nothing was stored. Whoever runs that transaction ends it; then repeat the append."""

    def __init__(self, message: str, *, stream_names: tuple[str, ...], holder_pid: int | None = None) -> None:
        super().__init__(message)
        self.stream_names, self.holder_pid = stream_names, holder_pid


class StreamClosed(ConcurrencyError):
    """The stream was closed for good; the caller appends elsewhere, or not at all."""

    def __init__(self, message: str, *, stream_name: str, closed_at: datetime) -> None:
        super().__init__(message)
        self.stream_name, self.closed_at = stream_name, closed_at


class TransactionConflict(ConcurrencyError):
    """PostgreSQL ended the transaction for a deadlock or a serialisation failure; repeat the whole transaction."""

    retryable = True


# -- personal data ----------------------------------------------------------------------------------------------------


class SubjectForgotten(HeadwaterError):
    """Personal data of a forgotten subject was to be stored; nothing was. The caller leaves it out, or takes a new subject."""

    def __init__(self, *, subject: str, owner: str, field: str, forgotten_at: datetime) -> None:
        self.subject, self.owner, self.field, self.forgotten_at = subject, owner, field, forgotten_at
        super().__init__(
            f"{owner} has personal data of {subject!r} in {field!r}, who was forgotten at {forgotten_at:%Y-%m-%d %H:%M:%S %Z}; nothing was stored. "
            "Leave it out; if the person came back, give them a new id"
        )


# -- not there --------------------------------------------------------------------------------------------------------


class NotFoundError(HeadwaterError):
    """The thing named does not exist."""


class StreamNotFound(NotFoundError):
    """The stream has no events."""


# -- storage ----------------------------------------------------------------------------------------------------------


class StorageError(HeadwaterError):
    """PostgreSQL refused or could not be asked."""


class StorageUnavailable(StorageError):
    """PostgreSQL cannot be reached, or went away; an append cut off by this has an unknown outcome: repeat it with the same event ids."""

    retryable = True


class MigrationNeeded(StorageError):
    """The database's schema is not the one this version needs; whoever deploys runs `headwater migrate`."""


class LogDiverged(StorageError):
    """The log lost its tail behind this reader (a failover or a restored backup); the reader must be rebuilt."""


class HorizonUnavailable(StorageError):
    """The log was read where its horizon cannot be known: on a standby, or outside READ COMMITTED."""


# -- files of a log ---------------------------------------------------------------------------------------------------


class LogFileDamaged(HeadwaterError):
    """A file is no whole export of a log; whoever made it makes it again. Nothing from the bad line on was stored."""

    def __init__(self, message: str, *, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line
        """Where, counted from 1: a line of JSON lines, a record of Avro; None where the file as a whole is meant."""


class ImportRefused(HeadwaterError):
    """The events of a sound file do not fit this log; an operator chooses another file or another log. Nothing from that line on was stored."""

    def __init__(self, message: str, *, line: int) -> None:
        super().__init__(message)
        self.line = line


# -- the shape of data ------------------------------------------------------------------------------------------------


class SchemaError(HeadwaterError):
    """An event class has no Avro schema, or a value does not fit one; whoever wrote the class or the value changes it."""


class UnknownSchema(SchemaError):
    """A value names a schema that was never published; an operator finds its writer or restores the schemas topic."""


class SchemaMismatch(SchemaError):
    """A value cannot be written or read with this schema without losing something."""


# -- delivery ---------------------------------------------------------------------------------------------------------


class DeliveryError(HeadwaterError):
    """A message could not be moved or handled."""


class BrokerUnavailable(DeliveryError):
    """Kafka cannot be reached; nothing is lost, the log keeps what was appended."""

    retryable = True


class RelayStopped(DeliveryError):
    """The relay met an event that it may not skip; an operator reads the reason and mends it."""


class RelayFenced(DeliveryError):
    """Another relay has taken over; this one must start again from the lease."""

    retryable = True


class NotAnEnvelope(DeliveryError):
    """A record in a topic was not written by a relay, or is damaged; an operator finds its writer and removes it."""


class RecordRefused(DeliveryError):
    """Kafka refused a batch for what it holds (its size, its content); an operator mends the topic's settings."""


class GapDetected(DeliveryError):
    """A consumer found that records before this one are missing from the topic; an operator restores or rebuilds."""


class ConsumerStalled(DeliveryError):
    """Records wait, but the source gives none; the consumer joins its group anew, and nobody need do anything."""

    retryable = True


class PartitionLost(DeliveryError):
    """Another member claimed this partition; effects of this member's transaction were rolled back."""

    retryable = True


class RequestTimeout(DeliveryError):
    """No reply came in time; the question may still be handled. The caller asks again only where that does no harm."""

    retryable = True

    def __init__(self, message: str, *, request_id: UUID) -> None:
        super().__init__(message)
        self.request_id = request_id
        """The id of the question's event."""


class UnexpectedReply(DeliveryError):
    """A reply is of another class than the one asked for; whoever wrote one of both sides changes it."""

    def __init__(self, message: str, *, reply_type: str) -> None:
        super().__init__(message)
        self.reply_type = reply_type


class HandlerFailed(DeliveryError):
    """A handler raised; its message is retried and then kept as a dead letter."""


# -- reading a model --------------------------------------------------------------------------------------------------


class ProjectionError(HeadwaterError):
    """A projection cannot do what was asked of it."""


class ConsistencyTimeout(ProjectionError):
    """The read model did not reach the asked consistency in time; read again, or ask for less."""

    retryable = True


class ProjectionFailed(ProjectionError):
    """A projection raised at an event; its read model stays as it was before. Whoever wrote it mends it and resumes or rebuilds."""

    def __init__(self, message: str, *, projection: str, global_position: int) -> None:
        super().__init__(message)
        self.projection, self.global_position = projection, global_position


class ProjectionStopped(ProjectionError):
    """The projection stands still, so waiting for it is in vain; an operator reads its error, mends it and resumes or rebuilds it."""


class RebuildRunning(ProjectionError):
    """Another process rebuilds this projection now; wait for it, or stop it."""

    retryable = True


# -- long stories -----------------------------------------------------------------------------------------------------


class SagaError(HeadwaterError):
    """A saga cannot do what was asked of it; whoever wrote it mends it."""


class SagaNotFound(SagaError, NotFoundError):
    """No saga of this key has begun; the event comes early, or the name is wrong."""
