-- The relay's memory: who may relay, and how far Kafka has acknowledged. Kafka itself holds the truth about what it got (rule 16); these rows
-- say where to start looking. Rows that are updated every second get a low fillfactor, so that updates stay in their page.

-- The right to relay a shard. The term grows with every taking, and writes of progress require it. This decides who tries; Kafka's producer
-- epoch decides whose batches get in (rule 13).
CREATE TABLE headwater.relay_leases (
    shard      text        NOT NULL CONSTRAINT relay_leases_pkey PRIMARY KEY,
    holder     uuid        NOT NULL,
    term       bigint      NOT NULL CONSTRAINT relay_leases_term_positive CHECK (term > 0),
    expires_at timestamptz NOT NULL
) WITH (fillfactor = 50);

-- Every event at or below this is acknowledged in Kafka; the log is read from here. The event's id shows whether the log still is the same.
CREATE TABLE headwater.relay_checkpoints (
    shard           text   NOT NULL CONSTRAINT relay_checkpoints_pkey PRIMARY KEY,
    epoch           bigint NOT NULL,
    global_position bigint NOT NULL,
    event_id        uuid,
    updated_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT relay_checkpoints_start CHECK ((global_position = 0) = (event_id IS NULL))
) WITH (fillfactor = 50);

-- The number of partitions a topic had when it was first relayed. Another number would send a stream's next event to another partition.
CREATE TABLE headwater.relay_topics (
    topic           text        NOT NULL CONSTRAINT relay_topics_pkey PRIMARY KEY,
    partition_count integer     NOT NULL CONSTRAINT relay_topics_partition_count_positive CHECK (partition_count > 0),
    first_relayed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- The last record that a partition acknowledged, and its offset: the search for the tail starts there. An end of the partition at or below
-- that offset, or another record there, means that Kafka lost data. Offset -1: the partition was found without a record of this log.
CREATE TABLE headwater.relay_positions (
    topic            text    NOT NULL,
    partition_number integer NOT NULL,
    epoch            bigint  NOT NULL,
    global_position  bigint  NOT NULL,
    kafka_offset     bigint  NOT NULL,
    updated_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT relay_positions_pkey PRIMARY KEY (topic, partition_number)
) WITH (fillfactor = 50);
