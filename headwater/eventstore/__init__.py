"""The log: append, read, decide.

Who is authoritative: PostgreSQL's `headwater.events`. The SQL function `headwater.append_events` is the only way in, from any driver; it checks
ids, then versions, under the stream's row lock, and only then draws positions under a shared append lock.

States of an append: not begun → in flight (its lock marks where the horizon must stop) → committed (visible to every later snapshot, then the
lock is released) or gone (its positions stay holes). A prepared transaction stays in flight, rightly, until somebody finishes it.

What can fail: somebody else was first (`WrongExpectedVersion`: nothing stored), the connection was cut during the commit (`StorageUnavailable`:
outcome unknown, repeat with the same ids), the log lost its tail behind a reader (`LogDiverged`), a read where the horizon cannot be known
(`HorizonUnavailable`).
"""

from headwater.eventstore.archive import ArchiveProgress, ArchiveSelection, archive_streams
from headwater.eventstore.decider import Decider, Decision, decide
from headwater.eventstore.exporting import ExportProgress, export_events
from headwater.eventstore.importing import ImportProgress, import_events
from headwater.eventstore.inspection import LAG_COUNT_MAX, EventFilter, LogInspection, LogStats, WriterInFlight
from headwater.eventstore.postgres import PostgresEventStore
from headwater.eventstore.store import (
    READ_BATCH_SIZE,
    Checkpoint,
    ClosedStream,
    EventStore,
    LogEpoch,
    LogIdentity,
    LogSlice,
    expected_number,
)
from headwater.eventstore.watched import WatchedEventStore

__all__ = [
    "LAG_COUNT_MAX",
    "READ_BATCH_SIZE",
    "ArchiveProgress",
    "ArchiveSelection",
    "Checkpoint",
    "ClosedStream",
    "Decider",
    "Decision",
    "EventFilter",
    "EventStore",
    "ExportProgress",
    "ImportProgress",
    "LogEpoch",
    "LogIdentity",
    "LogInspection",
    "LogSlice",
    "LogStats",
    "PostgresEventStore",
    "WatchedEventStore",
    "WriterInFlight",
    "archive_streams",
    "decide",
    "expected_number",
    "export_events",
    "import_events",
]
