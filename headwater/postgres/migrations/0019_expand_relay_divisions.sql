-- Topics that were given more partitions: docs/decisions/0026-adding-partitions.md.

-- Events of the topic up to this position were divided among so many partitions; later ones among as many as the next division says, or
-- relay_topics. So a partition that Kafka lost is filled again with what was in it. The tails are the last position in each partition then, by
-- number: a group that begins later handles everything up to them before it goes on.
CREATE TABLE headwater.relay_divisions (
    topic            text NOT NULL,
    through_epoch    bigint NOT NULL,
    through_position bigint NOT NULL,
    partition_count  integer NOT NULL,
    tails            jsonb NOT NULL,
    divided_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT relay_divisions_pkey PRIMARY KEY (topic, through_epoch, through_position),
    CONSTRAINT relay_divisions_partition_count_positive CHECK (partition_count > 0)
);
