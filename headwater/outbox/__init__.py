"""From the log to Kafka: `Publisher` for messages that are no domain events, `Relay` for everything in the log.

The log is the outbox: there is no second table and nothing to delete. Who is authoritative: the log for what must be in Kafka and in which
order; Kafka's partitions for what is there. The relay's own rows (leases, checkpoints, positions) only say who tries, and where to start looking.

Any number of relays share the log: the partitions of all topics are divided into six shards (`shards`), each with a lease, a transactional id, a
fence and a checkpoint of its own (`headwater.coordination` deals them out). States of a shard in a relay: lease taken → session → session … → given
back or lost. A session: topics ensured → predecessor fenced in Kafka (rule 13) → tails read (rule 16) → relaying, one unacknowledged batch per
partition (rule 14) → over. It ends well when the shard is recalled, when a new category needs its topic fenced, when a stopped partition is due,
or after half a day; it ends badly at the first failure of anything. Either way its producer is dropped without flushing, and the next session, here
or elsewhere, fences, looks and goes on. Shards fail alone, but for a request that did not come back, which carried batches of several.

A process reads the log once for all shards that it holds (`feed`): every event goes to its partition's lane in its shard's pump, events of shards
that others hold are passed over. A shard that joins late is taken in where it stands.

A record's value is made by the `ValueEncoder` given. It is prepared for the types of a slice before any of its events is encoded: an Avro schema is
registered and published before the first record that needs it, and a crash in between leaves a schema that nobody needed yet, which is found again.

What can fail, and what then happens:
- the process dies, freezes or is cut off: its leases run out, other relays take its shards and fence it in Kafka; its late batches are refused there;
- Kafka or PostgreSQL cannot be reached: tried again for ever, with back-off; the log keeps everything;
- Kafka lost acknowledged records, or a topic was made anew: the partition is rewound and filled again (`partition_rewound`);
- Kafka refuses a record, or one cannot be encoded: its partition stands still with an alarm (`partition_stopped`) and is tried again; the
  relay never skips (rule 15), other partitions go on, and only its shard's checkpoint waits;
- a topic's number of partitions changed and nobody said so here (`RelayStopped`; `dividing` is the way), or the log lost events that are in
  Kafka already (`LogDiverged`): everything stands still with an alarm.
"""

from headwater.outbox.dividing import AddedPartitions, DividesTopics, PartitionAdding, TopicContent, TopicNotDrained
from headwater.outbox.inspection import OutboxStatus, PartitionFacts, ShardFacts, read_outbox_status
from headwater.outbox.kafka import KafkaRelayBroker
from headwater.outbox.options import RelayOptions
from headwater.outbox.ports import (
    Division,
    FencedWriter,
    PartitionPosition,
    RelayBatch,
    RelayBroker,
    RelayPositions,
    RelayProgress,
    RelaySource,
    TailReader,
)
from headwater.outbox.postgres import PostgresRelayPositions
from headwater.outbox.postgres_scheduled import PostgresScheduledMessages
from headwater.outbox.publisher import Publisher, outbox_stream
from headwater.outbox.relay import Relay, RelayStatus, ShardStatus
from headwater.outbox.scheduled import (
    DELIVER_AHEAD_MAX,
    SCHEDULED_BYTES_MAX,
    SCHEDULED_LISTED_MAX,
    Cancellation,
    DueTime,
    ScheduledCounts,
    ScheduledMessage,
    ScheduledMessages,
    SealsEvents,
)
from headwater.outbox.shards import RELAY_GROUP, SHARDS, count_at, shard_of, transactional_id

__all__ = [
    "DELIVER_AHEAD_MAX",
    "RELAY_GROUP",
    "SCHEDULED_BYTES_MAX",
    "SCHEDULED_LISTED_MAX",
    "SHARDS",
    "AddedPartitions",
    "Cancellation",
    "DividesTopics",
    "Division",
    "DueTime",
    "FencedWriter",
    "KafkaRelayBroker",
    "OutboxStatus",
    "PartitionAdding",
    "PartitionFacts",
    "PartitionPosition",
    "PostgresRelayPositions",
    "PostgresScheduledMessages",
    "Publisher",
    "Relay",
    "RelayBatch",
    "RelayBroker",
    "RelayOptions",
    "RelayPositions",
    "RelayProgress",
    "RelaySource",
    "RelayStatus",
    "ScheduledCounts",
    "ScheduledMessage",
    "ScheduledMessages",
    "SealsEvents",
    "ShardFacts",
    "ShardStatus",
    "TailReader",
    "TopicContent",
    "TopicNotDrained",
    "count_at",
    "outbox_stream",
    "read_outbox_status",
    "shard_of",
    "transactional_id",
]
