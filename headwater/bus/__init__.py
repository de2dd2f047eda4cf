"""The bus: handlers, and the consumer that gives every event's effect to the database once.

Who is authoritative: Postgres's row in `headwater.consumer_positions`, one for each group, topic and partition. Kafka's group protocol only
proposes who works on what; claiming a partition raises the epoch in its row, and every commit requires the epoch that was claimed. So a member
that was paused, cut off or replaced finds its transaction refused, whatever it still believes. Kafka's own committed offsets are not used.

The row says how far the group got: the next offset; for each log the position of the last event applied (its mark); and which record was the
last one. A record at or below its log's mark is dropped as seen before. A record that names a predecessor above the mark shows that something is
missing. The last record is read again whenever the partition is claimed, so that a topic that was recreated or cut off is noticed.

States of a partition here: assigned (by the broker) → claimed (the row's epoch is ours) → working ⇄ waiting (its first message failed and is due
again later; other partitions go on) → revoked, or lost (another member claimed it), or stopped (a gap: nothing more is applied until somebody
restores the topic and the partition is claimed anew; other partitions go on).

A batch is one transaction: the effects of all handlers for records of many partitions, and their rows. When it fails through one message, what
came before commits, then the partition of that message waits and tries it alone, with growing delays. After `RetryPolicy.attempts_max` attempts
the message is kept as a dead letter, in the transaction that moves the position past it; what its other handlers did is kept.
A dead letter waits until somebody decides (`DeadLetterDesk`); a retry is worked by `DeadLetterRetrier`, under the lock of the letter's row.
Every later message of the partition waits meanwhile; issue 6 parks the key instead, so that only later messages of that key wait.

What can fail: a handler (above); PostgreSQL or Kafka away (waited out, for ever, with growing delays, telling so); a deadlock, or a database that
a handler uses is away (tried again without counting against the message); a record that no relay wrote, or an event that does not fit its class
(kept as a dead letter at once); the transaction took effect but the answer was lost (the position row tells on the next claim).

What comes due (messages for later, recurring schedules, sagas' deadlines) the `Clockwork` does, on the database's clock: whoever does it locks its
rows, and what it makes is appended to the log in the transaction that removes them or moves them on. Records of other producers (`foreign`) get a
relay's headers as they are received; from there on they are messages like any other. Replies (`replies`) are appends of the handler's transaction;
who asked reads them from a topic of its own, and forgets its questions when it dies.

Handlers see a message again after any failed attempt, so effects outside this database may happen twice: give them `Context.idempotency_key`.
"""

from headwater.bus.clockwork import Clockwork, DueWork
from headwater.bus.consumer import Consumer, PartitionStatus
from headwater.bus.context import Context, PublishesEvents
from headwater.bus.cron import Cron
from headwater.bus.dead_letters import DeadLetter
from headwater.bus.delivering import DueMessages
from headwater.bus.desk import ALL_STATUSES, OPEN_STATUSES, DeadLetterDesk, KeptLetter, LetterFilter, LetterStatus
from headwater.bus.firing import DueSchedules
from headwater.bus.foreign import FOREIGN_VALUE_BYTES_MAX, FindsSchemas, ForeignFormat
from headwater.bus.kafka import KafkaReplySource, KafkaSource
from headwater.bus.ports import EffectsRefused, EffectStore, EffectTransaction, MessageSource, OffsetOutOfRange, RebalanceListener
from headwater.bus.postgres import DeadLetters, PostgresEffects
from headwater.bus.postgres_schedules import PostgresSchedules, ScheduleDesk
from headwater.bus.replies import REQUEST_SECONDS_DEFAULT, ReplySource, Requests
from headwater.bus.retries import RetryPolicy
from headwater.bus.retrying import DeadLetterRetrier, LetterRetries, PostgresLetterRetries
from headwater.bus.schedules import DueSchedule, Firing, MakesEvent, Missed, Schedule, Schedules, ScheduleStatus, ScheduleStore
from headwater.bus.subscriptions import Handler, HandlerDecorator, Subscriptions
from headwater.bus.values import ConsumerLimits, LastRecord, Move, PartitionPosition, SourceRecord

__all__ = [
    "ALL_STATUSES",
    "FOREIGN_VALUE_BYTES_MAX",
    "OPEN_STATUSES",
    "REQUEST_SECONDS_DEFAULT",
    "Clockwork",
    "Consumer",
    "ConsumerLimits",
    "Context",
    "Cron",
    "DeadLetter",
    "DeadLetterDesk",
    "DeadLetterRetrier",
    "DeadLetters",
    "DueMessages",
    "DueSchedule",
    "DueSchedules",
    "DueWork",
    "EffectStore",
    "EffectTransaction",
    "EffectsRefused",
    "FindsSchemas",
    "Firing",
    "ForeignFormat",
    "Handler",
    "HandlerDecorator",
    "KafkaReplySource",
    "KafkaSource",
    "KeptLetter",
    "LastRecord",
    "LetterFilter",
    "LetterRetries",
    "LetterStatus",
    "MakesEvent",
    "MessageSource",
    "Missed",
    "Move",
    "OffsetOutOfRange",
    "PartitionPosition",
    "PartitionStatus",
    "PostgresEffects",
    "PostgresLetterRetries",
    "PostgresSchedules",
    "PublishesEvents",
    "RebalanceListener",
    "ReplySource",
    "Requests",
    "RetryPolicy",
    "Schedule",
    "ScheduleDesk",
    "ScheduleStatus",
    "ScheduleStore",
    "Schedules",
    "SourceRecord",
    "Subscriptions",
]
