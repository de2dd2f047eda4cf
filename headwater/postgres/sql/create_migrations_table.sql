-- The schema, and the record of what was applied to it. Repeatable.
CREATE SCHEMA IF NOT EXISTS headwater;

CREATE TABLE IF NOT EXISTS headwater.migrations (
    name       text        NOT NULL CONSTRAINT migrations_pkey PRIMARY KEY,
    checksum   text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
