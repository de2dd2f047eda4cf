-- Snapshots: folded states of streams, so that a decision need not read a long stream from its beginning. Every row may be lost or deleted at
-- any time; it costs a longer read. Why it looks like this: docs/decisions/0010-the-decide-loop.md.

-- One row for each stream and decider, replaced as the stream grows, hence the room on its page. `event_id` is the event at `version`: a
-- snapshot whose event is not in the stream is of another history. `state` is text, not jsonb: what comes back is what was written.
CREATE TABLE headwater.snapshots (
    stream_name  text        NOT NULL COLLATE "C",
    decider_name text        NOT NULL COLLATE "C",
    version      bigint      NOT NULL,
    event_id     uuid        NOT NULL,
    shape        text        NOT NULL,
    state        text        NOT NULL,
    taken_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT snapshots_pkey PRIMARY KEY (stream_name, decider_name),
    CONSTRAINT snapshots_version_counted CHECK (version > 0)
) WITH (fillfactor = 50);
