-- Handlers fed by the log itself: docs/decisions/0019-the-postgres-source.md.

-- Into how many partitions the log falls for its consumers: kept at first use, for another number would send a stream's next event to another
-- partition, whose owner is past it.
CREATE TABLE headwater.log_partitioning (
    is_only         boolean NOT NULL DEFAULT true CONSTRAINT log_partitioning_pkey PRIMARY KEY,
    partition_count integer NOT NULL,
    first_used_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT log_partitioning_is_only CHECK (is_only),
    CONSTRAINT log_partitioning_partition_count_range CHECK (partition_count BETWEEN 1 AND 1000)
);

-- The event's own name beside its place: a checkpoint is epoch, position and event id (rule 5). NULL in rows of earlier versions.
ALTER TABLE headwater.consumer_positions ADD COLUMN last_event_id uuid;
