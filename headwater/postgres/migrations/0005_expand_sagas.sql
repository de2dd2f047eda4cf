-- Sagas: their state, their deadlines, and every transition.

-- One row for each saga that ever began. It is locked while the saga acts, so that events from any partition and its deadlines take turns;
-- whoever locks it may change its deadlines. Updated with every turn, hence the room on its page.
CREATE TABLE headwater.sagas (
    saga_type      text        NOT NULL COLLATE "C",
    saga_key       text        NOT NULL COLLATE "C",
    -- `status` is the phase, or 'stuck' while a deadline waits for a person.
    phase          text        NOT NULL DEFAULT 'running',
    status         text        NOT NULL DEFAULT 'running',
    state          jsonb       NOT NULL,
    -- In the order in which they were sent: [{"name": …, "status": …, "compensation": …}].
    steps          jsonb       NOT NULL DEFAULT '[]',
    reason         text,
    correlation_id text        NOT NULL,
    cause_id       uuid        NOT NULL,
    history_count  integer     NOT NULL DEFAULT 0,
    started_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at       timestamptz,
    CONSTRAINT sagas_pkey PRIMARY KEY (saga_type, saga_key),
    CONSTRAINT sagas_phase_known CHECK (phase IN ('running', 'compensating', 'completed', 'compensated')),
    CONSTRAINT sagas_status_known CHECK (status IN ('running', 'compensating', 'completed', 'compensated', 'stuck')),
    CONSTRAINT sagas_ended_at_known CHECK ((ended_at IS NOT NULL) = (phase IN ('completed', 'compensated')))
) WITH (fillfactor = 50);

CREATE INDEX sagas_status_idx ON headwater.sagas (status, started_at);

-- Deadlines that have yet to pass, on this database's clock, and those that could not be acted upon.
CREATE TABLE headwater.saga_deadlines (
    saga_type      text             NOT NULL COLLATE "C",
    saga_key       text             NOT NULL COLLATE "C",
    -- 'said' by the saga's code, until an 'undo' is confirmed, or until the saga should 'end'.
    kind           text             NOT NULL COLLATE "C",
    name           text             NOT NULL COLLATE "C",
    due_at         timestamptz      NOT NULL,
    period_seconds double precision NOT NULL DEFAULT 0,
    attempts       integer          NOT NULL DEFAULT 0,
    is_failed      boolean          NOT NULL DEFAULT false,
    error          text,
    CONSTRAINT saga_deadlines_pkey PRIMARY KEY (saga_type, saga_key, kind, name),
    CONSTRAINT saga_deadlines_saga_fkey FOREIGN KEY (saga_type, saga_key) REFERENCES headwater.sagas ON DELETE CASCADE,
    CONSTRAINT saga_deadlines_kind_known CHECK (kind IN ('said', 'undo', 'end')),
    CONSTRAINT saga_deadlines_failed_with_error CHECK (NOT is_failed OR error IS NOT NULL)
);

CREATE INDEX saga_deadlines_due_at_idx ON headwater.saga_deadlines (due_at) WHERE NOT is_failed;

-- What happened to a saga, in order.
CREATE TABLE headwater.saga_history (
    saga_type   text        NOT NULL COLLATE "C",
    saga_key    text        NOT NULL COLLATE "C",
    number      integer     NOT NULL,
    happened_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    kind        text        NOT NULL,
    subject     text        NOT NULL,
    detail      text        NOT NULL,
    CONSTRAINT saga_history_pkey PRIMARY KEY (saga_type, saga_key, number),
    CONSTRAINT saga_history_saga_fkey FOREIGN KEY (saga_type, saga_key) REFERENCES headwater.sagas ON DELETE CASCADE
);
