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
Handlers see a message again after any failed attempt, so effects outside this database may happen twice: give them `Context.idempotency_key`.

Two sources feed a consumer, and promise the same: Kafka, which a relay fills, and the log itself (`postgres_source`), whose partitions members share
by leases. There a record's offset is its position in the log, and the topic of a position's row is `log:<category>`.
"""

from headwater.bus.consumer import Consumer, PartitionStatus
from headwater.bus.context import Context, PublishesEvents
from headwater.bus.dead_letters import DeadLetter
from headwater.bus.desk import ALL_STATUSES, OPEN_STATUSES, DeadLetterDesk, KeptLetter, LetterFilter, LetterStatus
from headwater.bus.kafka import KafkaSource
from headwater.bus.log_partitions import LOG_PARTITION_COUNT, PostgresLogPartitions, require_source
from headwater.bus.log_records import LOG_TOPIC_PREFIX, LogRecord, log_topic
from headwater.bus.ports import (
    EffectsRefused,
    EffectStore,
    EffectTransaction,
    LogPartitions,
    MessageSource,
    OffsetOutOfRange,
    RebalanceListener,
)
from headwater.bus.postgres import DeadLetters, PostgresEffects
from headwater.bus.postgres_source import PostgresSource
from headwater.bus.reading import EncodedRecords, Reading, RecordReader
from headwater.bus.retries import RetryPolicy
from headwater.bus.retrying import DeadLetterRetrier, LetterRetries, PostgresLetterRetries
from headwater.bus.subscriptions import Handler, HandlerDecorator, Subscriptions
from headwater.bus.values import ConsumerLimits, LastRecord, Move, PartitionPosition, SourceRecord

__all__ = [
    "ALL_STATUSES",
    "LOG_PARTITION_COUNT",
    "LOG_TOPIC_PREFIX",
    "OPEN_STATUSES",
    "Consumer",
    "ConsumerLimits",
    "Context",
    "DeadLetter",
    "DeadLetterDesk",
    "DeadLetterRetrier",
    "DeadLetters",
    "EffectStore",
    "EffectTransaction",
    "EffectsRefused",
    "EncodedRecords",
    "Handler",
    "HandlerDecorator",
    "KafkaSource",
    "KeptLetter",
    "LastRecord",
    "LetterFilter",
    "LetterRetries",
    "LetterStatus",
    "LogPartitions",
    "LogRecord",
    "MessageSource",
    "Move",
    "OffsetOutOfRange",
    "PartitionPosition",
    "PartitionStatus",
    "PostgresEffects",
    "PostgresLetterRetries",
    "PostgresLogPartitions",
    "PostgresSource",
    "PublishesEvents",
    "Reading",
    "RebalanceListener",
    "RecordReader",
    "RetryPolicy",
    "SourceRecord",
    "Subscriptions",
    "log_topic",
    "require_source",
]
