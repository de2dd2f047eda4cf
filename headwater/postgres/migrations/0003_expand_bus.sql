-- The bus: how far each group got in each partition, and the messages that no handler could handle.

-- One row for each group, topic and partition. Claiming raises the epoch; a commit requires it, so that a member that was replaced cannot
-- commit. Updated with every batch, hence the room on its page and no index beside the primary key.
CREATE TABLE headwater.consumer_positions (
    group_name    text        NOT NULL COLLATE "C",
    topic         text        NOT NULL COLLATE "C",
    partition     integer     NOT NULL,
    epoch         bigint      NOT NULL DEFAULT 1,
    next_offset   bigint      NOT NULL DEFAULT 0,
    -- For each log the last position applied: {"log id": "epoch:position"}.
    marks         jsonb       NOT NULL DEFAULT '{}',
    -- The last event passed, read again on the next claim to see that the topic is still the same.
    last_offset   bigint,
    last_log_id   uuid,
    last_position text,
    claimed_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT consumer_positions_pkey PRIMARY KEY (group_name, topic, partition),
    CONSTRAINT consumer_positions_epoch_positive CHECK (epoch > 0),
    CONSTRAINT consumer_positions_next_offset_range CHECK (next_offset >= 0 AND (last_offset IS NULL OR last_offset < next_offset)),
    CONSTRAINT consumer_positions_last_whole CHECK (num_nulls(last_offset, last_log_id, last_position) IN (0, 3))
) WITH (fillfactor = 50);

-- What a handler gave up on, with all that is needed to try it again; or a record that could not be read, as it came.
CREATE TABLE headwater.dead_letters (
    dead_letter_id  bigint      NOT NULL GENERATED ALWAYS AS IDENTITY CONSTRAINT dead_letters_pkey PRIMARY KEY,
    group_name      text        NOT NULL COLLATE "C",
    handler_name    text,
    topic           text        NOT NULL COLLATE "C",
    partition       integer     NOT NULL,
    record_offset   bigint      NOT NULL,
    log_id          uuid,
    log_position    text,
    event_id        uuid,
    stream_name     text,
    version         bigint,
    event_type      text,
    data            text,
    metadata        jsonb,
    recorded_at     timestamptz,
    raw             jsonb,
    error_type      text        NOT NULL,
    error_message   text        NOT NULL,
    traceback       text        NOT NULL,
    attempts        integer     NOT NULL,
    first_failed_at timestamptz NOT NULL,
    last_failed_at  timestamptz NOT NULL,
    stored_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT dead_letters_content_kept CHECK (data IS NOT NULL OR raw IS NOT NULL)
);

CREATE INDEX dead_letters_group_name_idx ON headwater.dead_letters (group_name, dead_letter_id);
