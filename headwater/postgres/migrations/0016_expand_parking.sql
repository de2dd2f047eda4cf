-- Parking: a message that keeps failing is set aside with its key, so that later messages of that key wait behind it, in order, and nothing else does.

-- A key of one partition that one handler of a group has to wait for. Written by the partition's owner alone, under its epoch; commands leave a
-- request that the owner carries out.
CREATE TABLE headwater.parked_keys (
    parked_key_id   bigint           NOT NULL GENERATED ALWAYS AS IDENTITY CONSTRAINT parked_keys_pkey PRIMARY KEY,
    group_name      text             NOT NULL COLLATE "C",
    handler_name    text             NOT NULL COLLATE "C",
    topic           text             NOT NULL COLLATE "C",
    partition       integer          NOT NULL,
    message_key     text             NOT NULL COLLATE "C",
    status          text             NOT NULL DEFAULT 'waiting',
    -- When the first message is due again; of no meaning while the key is stopped.
    due_at          timestamptz      NOT NULL,
    -- The first message's attempts, and those of them after which it was, or stayed, parked; zero where it has yet to be tried.
    attempts        integer          NOT NULL,
    retries         integer          NOT NULL,
    error_type      text,
    error_message   text,
    traceback       text,
    first_failed_at timestamptz,
    last_failed_at  timestamptz,
    parked_at       timestamptz      NOT NULL DEFAULT clock_timestamp(),
    request         text,
    requested_at    timestamptz,
    -- The first message when the request was made: a decision about it must not hit the next.
    requested_for   bigint,
    CONSTRAINT parked_keys_key_once UNIQUE (group_name, topic, partition, message_key, handler_name),
    CONSTRAINT parked_keys_status_known CHECK (status IN ('waiting', 'stopped')),
    CONSTRAINT parked_keys_request_known CHECK (request IN ('retry', 'skip', 'discard')),
    CONSTRAINT parked_keys_request_whole CHECK (num_nulls(request, requested_at, requested_for) IN (0, 3)),
    CONSTRAINT parked_keys_error_whole CHECK (num_nulls(error_type, error_message, traceback, first_failed_at, last_failed_at) IN (0, 5))
) WITH (fillfactor = 70);

-- What is parked, in order of id: the message that failed, and those of its key that came after it. The record is kept as it came, its personal data
-- sealed, so that it is decoded as it would have been; what stands beside it is there to be looked at.
CREATE TABLE headwater.parked_messages (
    parked_message_id bigint      NOT NULL GENERATED ALWAYS AS IDENTITY CONSTRAINT parked_messages_pkey PRIMARY KEY,
    parked_key_id     bigint      NOT NULL CONSTRAINT parked_messages_key REFERENCES headwater.parked_keys (parked_key_id),
    record_offset     bigint      NOT NULL,
    event_id          uuid        NOT NULL,
    event_type        text        NOT NULL,
    version           bigint      NOT NULL,
    log_id            uuid        NOT NULL,
    log_position      text        NOT NULL,
    raw               jsonb       NOT NULL,
    parked_at         timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE INDEX parked_messages_key_idx ON headwater.parked_messages (parked_key_id, parked_message_id);

-- How far each key lane of a handler got, beside the position that the whole partition got to: a message at or below either was handled. A changed
-- number of lanes begins rows of its own; those of another number still say what they said, until the position has passed them.
CREATE TABLE headwater.consumer_lanes (
    group_name   text    NOT NULL COLLATE "C",
    topic        text    NOT NULL COLLATE "C",
    partition    integer NOT NULL,
    handler_name text    NOT NULL COLLATE "C",
    lane_count   integer NOT NULL,
    lane         integer NOT NULL,
    -- The claim's epoch, so that a lane of an owner that was replaced cannot commit.
    epoch        bigint  NOT NULL,
    -- The offset of the lane's last message that was handled.
    mark         bigint  NOT NULL DEFAULT -1,
    CONSTRAINT consumer_lanes_pkey PRIMARY KEY (group_name, topic, partition, handler_name, lane_count, lane),
    CONSTRAINT consumer_lanes_lane_range CHECK (lane >= 0 AND lane < lane_count),
    -- A row that is removed to start over takes its lanes along.
    CONSTRAINT consumer_lanes_position FOREIGN KEY (group_name, topic, partition)
        REFERENCES headwater.consumer_positions (group_name, topic, partition) ON DELETE CASCADE
) WITH (fillfactor = 50);
