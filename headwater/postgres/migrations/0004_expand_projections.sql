-- Projections: how far each read model got, and the rebuild that is to replace it. The models themselves live in schemas of their own.

-- One row for the version that serves ('live') and one for the rebuild under way ('next'). Updated with every batch, hence the room on
-- its page and no index beside the primary key.
CREATE TABLE headwater.projections (
    name            text        NOT NULL COLLATE "C",
    role            text        NOT NULL COLLATE "C",
    schema_name     text        NOT NULL,
    -- What the stored rows look like (fields, key, event types, tables), and in `fingerprint` also the code that made them.
    shape           text        NOT NULL,
    fingerprint     text        NOT NULL,
    -- Grows with every switch, so that a runner notices that another version took the place.
    generation      bigint      NOT NULL DEFAULT 1,
    epoch           bigint      NOT NULL DEFAULT 1,
    global_position bigint      NOT NULL DEFAULT 0,
    event_id        uuid,
    event_count     bigint      NOT NULL DEFAULT 0,
    status          text        NOT NULL DEFAULT 'running',
    error           text,
    updated_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT projections_pkey PRIMARY KEY (name, role),
    CONSTRAINT projections_name_shape CHECK (name ~ '^[a-z][a-z0-9_]{0,39}$'),
    CONSTRAINT projections_role_known CHECK (role IN ('live', 'next')),
    CONSTRAINT projections_status_known CHECK (status IN ('running', 'failed', 'diverged')),
    CONSTRAINT projections_event_id_known CHECK ((event_id IS NULL) = (global_position = 0))
) WITH (fillfactor = 40);
