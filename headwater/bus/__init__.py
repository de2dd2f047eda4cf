"""The bus: handlers, and the consumer that gives every event's effect to the database once.

Who is authoritative: Postgres's row in `headwater.consumer_positions`, one for each group, topic and partition. Kafka's group protocol only
proposes who works on what; claiming a partition raises the epoch in its row, and every commit requires the epoch that was claimed. So a member
that was paused, cut off or replaced finds its transaction refused, whatever it still believes. Kafka's own committed offsets follow it,
for tools to look at, and are never read.

The row says how far the group got: the next offset; for each log the position of the last event applied (its mark); and which record was the
last one. A record at or below its log's mark is dropped as seen before. A record that names a predecessor above the mark shows that something is
missing. The last record is read again whenever the partition is claimed, so that a topic that was recreated or cut off is noticed.

States of a partition here: assigned (by the broker) → claimed (the row's epoch is ours) → working ⇄ waiting (its first message failed and is due
again in a moment, or what is parked has reached its limit; other partitions go on) → revoked, or lost (another member claimed it), or stopped (a gap,
or an error whose policy says so: nothing more is applied until the partition is claimed anew; other partitions go on).

A batch is one transaction: the effects of all handlers for records of many partitions, and their rows. When it fails through one message, what
came before commits, then the partition of that message waits and tries it alone, a few times and quickly. After that it is parked for the handler
that failed: its key (its stream) waits, later messages of that key are stored behind it in the transactions that move the position past them, and
everything else goes on. The partition's owner alone retries what is parked, under the same epoch; when the first message succeeds, or is made a
dead letter, those behind it follow in order. What a person decides about it is a request in its row that the owner carries out (`ParkedDesk`).
A dead letter waits until somebody decides (`DeadLetterDesk`); a retry is worked by `DeadLetterRetrier`, under the lock of the letter's row.

Handlers in lanes run apart: many keys of a partition at once, each message in its own transaction, which also writes how far its lane got. The
position follows as far as everything before it is finished; batches take a message once its lanes are done. See docs/decisions/0018.

What can fail: a handler (above); PostgreSQL or Kafka away (waited out, for ever, with growing delays, telling so); a deadlock, or a database that
a handler uses is away (tried again without counting against the message); a record that no relay wrote, or an event that does not fit its class
(kept as a dead letter at once, unless `on_error` says otherwise); the transaction took effect but the answer was lost (the position row tells on
the next claim).

What comes due (messages for later, recurring schedules, sagas' deadlines) the `Clockwork` does, on the database's clock: whoever does it locks its
rows, and what it makes is appended to the log in the transaction that removes them or moves them on. Records of other producers (`foreign`) get a
relay's headers as they are received; from there on they are messages like any other. Replies (`replies`) are appends of the handler's transaction;
who asked reads them from a topic of its own, and forgets its questions when it dies.

Handlers see a message again after any failed attempt, so effects outside this database may happen twice: give them `Context.idempotency_key`.

Two sources feed a consumer, and promise the same: Kafka, which a relay fills, and the log itself (`postgres_source`), whose partitions members share
by leases. There a record's offset is its position in the log, and the topic of a position's row is `log:<category>`.
"""

from headwater.bus.binding import CallNext, HandlerCall, Middleware, Provider, Surroundings
from headwater.bus.clockwork import Clockwork, DueWork
from headwater.bus.consumer import Consumer
from headwater.bus.context import BatchContext, Context, PublishesEvents
from headwater.bus.cron import Cron
from headwater.bus.dead_letters import DeadLetter, MessageDeadLettered
from headwater.bus.delivering import DueMessages
from headwater.bus.desk import ALL_STATUSES, OPEN_STATUSES, DeadLetterDesk, KeptLetter, LetterFilter, LetterStatus
from headwater.bus.divisions import TopicDivision
from headwater.bus.draining import GroupProgress, read_group_progress, unhandled_by_group, unhandled_by_other
from headwater.bus.firing import DueSchedules
from headwater.bus.foreign import FOREIGN_VALUE_BYTES_MAX, FindsSchemas, ForeignFormat
from headwater.bus.group_sources import FedByAnother, HandlerGroup, list_groups, require_source
from headwater.bus.kafka import KafkaReplySource, KafkaSource
from headwater.bus.lane_marks import LANES_MAX, Lane, LaneMarks, lane_of
from headwater.bus.log_partitions import LOG_PARTITION_COUNT, PostgresLogPartitions
from headwater.bus.log_records import LOG_TOPIC_PREFIX, LogRecord, log_topic
from headwater.bus.log_replies import LogReplySource
from headwater.bus.moving import GroupMove, GroupNotReady, MovedGroup, topics_of_group
from headwater.bus.parked import Follower, ParkedKey, ParkedRecord, ParkedRequest, ParkedRequestKind
from headwater.bus.parked_desk import PARKED_STATUSES, KeptKey, ParkedDesk, ParkedEvent, ParkedFilter, ParkedStatus
from headwater.bus.partition_status import PartitionStatus
from headwater.bus.ports import (
    EffectsRefused,
    EffectStore,
    EffectTransaction,
    LogPartitions,
    MessageSource,
    OffsetOutOfRange,
    ParkedRows,
    RebalanceListener,
)
from headwater.bus.postgres import DeadLetters, PostgresEffects
from headwater.bus.postgres_schedules import PostgresSchedules, ScheduleDesk
from headwater.bus.postgres_source import PostgresSource
from headwater.bus.reading import EncodedRecords, Reading, RecordReader
from headwater.bus.replies import REQUEST_SECONDS_DEFAULT, ReplySource, Requests
from headwater.bus.retries import DeadLetterIt, ErrorAction, OnError, Park, RetryPolicy, Skip, Stop
from headwater.bus.retrying import DeadLetterRetrier, LetterRetries, PostgresLetterRetries
from headwater.bus.routes import Handler
from headwater.bus.schedules import DueSchedule, Firing, MakesEvent, Missed, Schedule, Schedules, ScheduleStatus, ScheduleStore
from headwater.bus.subscriptions import CategoryDecorator, HandlerDecorator, HandlerOptions, Subscriptions, named_classes
from headwater.bus.values import LANE_TRANSACTIONS_MAX, ConsumerLimits, LastRecord, Move, PartitionPosition, SourceRecord

__all__ = [
    "ALL_STATUSES",
    "FOREIGN_VALUE_BYTES_MAX",
    "LANES_MAX",
    "LANE_TRANSACTIONS_MAX",
    "LOG_PARTITION_COUNT",
    "LOG_TOPIC_PREFIX",
    "OPEN_STATUSES",
    "PARKED_STATUSES",
    "REQUEST_SECONDS_DEFAULT",
    "BatchContext",
    "CallNext",
    "CategoryDecorator",
    "Clockwork",
    "Consumer",
    "ConsumerLimits",
    "Context",
    "Cron",
    "DeadLetter",
    "DeadLetterDesk",
    "DeadLetterIt",
    "DeadLetterRetrier",
    "DeadLetters",
    "DueMessages",
    "DueSchedule",
    "DueSchedules",
    "DueWork",
    "EffectStore",
    "EffectTransaction",
    "EffectsRefused",
    "EncodedRecords",
    "ErrorAction",
    "FedByAnother",
    "FindsSchemas",
    "Firing",
    "Follower",
    "ForeignFormat",
    "GroupMove",
    "GroupNotReady",
    "GroupProgress",
    "Handler",
    "HandlerCall",
    "HandlerDecorator",
    "HandlerGroup",
    "HandlerOptions",
    "KafkaReplySource",
    "KafkaSource",
    "KeptKey",
    "KeptLetter",
    "Lane",
    "LaneMarks",
    "LastRecord",
    "LetterFilter",
    "LetterRetries",
    "LetterStatus",
    "LogPartitions",
    "LogRecord",
    "LogReplySource",
    "MakesEvent",
    "MessageDeadLettered",
    "MessageSource",
    "Middleware",
    "Missed",
    "Move",
    "MovedGroup",
    "OffsetOutOfRange",
    "OnError",
    "Park",
    "ParkedDesk",
    "ParkedEvent",
    "ParkedFilter",
    "ParkedKey",
    "ParkedRecord",
    "ParkedRequest",
    "ParkedRequestKind",
    "ParkedRows",
    "ParkedStatus",
    "PartitionPosition",
    "PartitionStatus",
    "PostgresEffects",
    "PostgresLetterRetries",
    "PostgresLogPartitions",
    "PostgresSchedules",
    "PostgresSource",
    "Provider",
    "PublishesEvents",
    "Reading",
    "RebalanceListener",
    "RecordReader",
    "ReplySource",
    "Requests",
    "RetryPolicy",
    "Schedule",
    "ScheduleDesk",
    "ScheduleStatus",
    "ScheduleStore",
    "Schedules",
    "Skip",
    "SourceRecord",
    "Stop",
    "Subscriptions",
    "Surroundings",
    "TopicDivision",
    "lane_of",
    "list_groups",
    "log_topic",
    "named_classes",
    "read_group_progress",
    "require_source",
    "topics_of_group",
    "unhandled_by_group",
    "unhandled_by_other",
]
