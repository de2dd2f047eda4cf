"""The log: append, read, subscribe, decide.

Who is authoritative: PostgreSQL's `headwater.events`. The SQL function `headwater.append_events` is the only way in, from any driver; it checks
ids, then versions, under the stream's row lock, and only then draws positions under a shared append lock.

States of an append: not begun → in flight (its lock marks where the horizon must stop) → committed (visible to every later snapshot, then the
lock is released) or gone (its positions stay holes). A prepared transaction stays in flight, rightly, until somebody finishes it.

Readers (`Subscription`) share one `LogTail` a process, which a `LogDoorbell` wakes; the states of each are told in its module.

What can fail: somebody else was first (`WrongExpectedVersion`: nothing stored), the connection was cut during the commit (`StorageUnavailable`:
outcome unknown, repeat with the same ids), the log lost its tail behind a reader (`LogDiverged`), a read where the horizon cannot be known
(`HorizonUnavailable`).
"""

from headwater.eventstore.decider import Decider, Decision, decide
from headwater.eventstore.doorbell import Doorbell
from headwater.eventstore.inspection import LAG_COUNT_MAX, EventFilter, LogInspection, LogStats, WriterInFlight
from headwater.eventstore.log_doorbell import LogDoorbell
from headwater.eventstore.postgres import PostgresEventStore
from headwater.eventstore.selection import EVERYTHING, EventSelection
from headwater.eventstore.store import (
    READ_BATCH_SIZE,
    SCAN_POSITIONS_MAX,
    Checkpoint,
    EventStore,
    LogEpoch,
    LogIdentity,
    LogSlice,
    SelectedSlice,
    expected_number,
)
from headwater.eventstore.subscription import EventBatch, EventSubscription, Subscription
from headwater.eventstore.tail import LogTail, TailRead
from headwater.eventstore.watched import WatchedEventStore

__all__ = [
    "EVERYTHING",
    "LAG_COUNT_MAX",
    "READ_BATCH_SIZE",
    "SCAN_POSITIONS_MAX",
    "Checkpoint",
    "Decider",
    "Decision",
    "Doorbell",
    "EventBatch",
    "EventFilter",
    "EventSelection",
    "EventStore",
    "EventSubscription",
    "LogDoorbell",
    "LogEpoch",
    "LogIdentity",
    "LogInspection",
    "LogSlice",
    "LogStats",
    "LogTail",
    "PostgresEventStore",
    "SelectedSlice",
    "Subscription",
    "TailRead",
    "WatchedEventStore",
    "WriterInFlight",
    "decide",
    "expected_number",
]
