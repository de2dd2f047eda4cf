"""The log: append, read, subscribe, decide.

Who is authoritative: PostgreSQL's `headwater.events`. The SQL functions `headwater.append_…` are the only way in, from any driver; they check
ids, then versions, under the streams' row locks, and only then draw positions under a shared append lock.

States of an append: not begun → in flight (its lock marks where the horizon must stop) → committed (visible to every later snapshot, then the
lock is released) or gone (its positions stay holes). A prepared transaction stays in flight, rightly, until somebody finishes it.

Readers (`Subscription`) share one `LogTail` a process, which a `LogDoorbell` wakes; the states of each are told in its module.

What can fail: somebody else was first (`WrongExpectedVersion`: nothing stored), the connection was cut during the commit (`StorageUnavailable`:
outcome unknown, repeat with the same ids), the log lost its tail behind a reader (`LogDiverged`), a read where the horizon cannot be known
(`HorizonUnavailable`).
"""

from headwater.eventstore.appending import several_parts
from headwater.eventstore.archive import ArchiveProgress, ArchiveSelection, archive_streams
from headwater.eventstore.cache import CACHED_STREAMS_MAX, StreamCache
from headwater.eventstore.commands import COMMAND_ID, event_id_of_command
from headwater.eventstore.conditions import AppendCondition, ConditionToken, EventQuery, Matching, queries_of, token_of
from headwater.eventstore.decider import Decider, Decision
from headwater.eventstore.deciding import decide
from headwater.eventstore.doorbell import Doorbell
from headwater.eventstore.exporting import ExportProgress, export_events
from headwater.eventstore.forwarding import ForwardingEventStore
from headwater.eventstore.importing import ImportProgress, import_events
from headwater.eventstore.inspection import LAG_COUNT_MAX, EventFilter, LogInspection, LogStats, WriterInFlight
from headwater.eventstore.log_doorbell import LogDoorbell
from headwater.eventstore.personal import PersonalEventStore
from headwater.eventstore.postgres import PostgresEventStore
from headwater.eventstore.postgres_snapshots import PostgresSnapshotStore
from headwater.eventstore.selection import EVERYTHING, EventSelection
from headwater.eventstore.snapshots import Snapshot, Snapshots, SnapshotStore, StateCodec
from headwater.eventstore.store import (
    READ_BATCH_SIZE,
    SCAN_POSITIONS_MAX,
    Checkpoint,
    ClosedStream,
    EventStore,
    LogEpoch,
    LogIdentity,
    LogSlice,
    SelectedSlice,
    StreamAppend,
    expected_in_words,
    expected_number,
)
from headwater.eventstore.subscription import EventBatch, EventSubscription, Subscription
from headwater.eventstore.tail import LogTail, TailRead
from headwater.eventstore.watched import WatchedEventStore

__all__ = [
    "CACHED_STREAMS_MAX",
    "COMMAND_ID",
    "EVERYTHING",
    "LAG_COUNT_MAX",
    "READ_BATCH_SIZE",
    "SCAN_POSITIONS_MAX",
    "AppendCondition",
    "ArchiveProgress",
    "ArchiveSelection",
    "Checkpoint",
    "ClosedStream",
    "ConditionToken",
    "Decider",
    "Decision",
    "Doorbell",
    "EventBatch",
    "EventFilter",
    "EventQuery",
    "EventSelection",
    "EventStore",
    "EventSubscription",
    "ExportProgress",
    "ForwardingEventStore",
    "ImportProgress",
    "LogDoorbell",
    "LogEpoch",
    "LogIdentity",
    "LogInspection",
    "LogSlice",
    "LogStats",
    "LogTail",
    "Matching",
    "PersonalEventStore",
    "PostgresEventStore",
    "PostgresSnapshotStore",
    "SelectedSlice",
    "Snapshot",
    "SnapshotStore",
    "Snapshots",
    "StateCodec",
    "StreamAppend",
    "StreamCache",
    "Subscription",
    "TailRead",
    "WatchedEventStore",
    "WriterInFlight",
    "archive_streams",
    "decide",
    "event_id_of_command",
    "expected_in_words",
    "expected_number",
    "export_events",
    "import_events",
    "queries_of",
    "several_parts",
    "token_of",
]
