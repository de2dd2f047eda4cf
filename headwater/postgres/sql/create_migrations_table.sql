-- The schema, and the record of what was applied to it. Repeatable.
DO $$
BEGIN
    -- IF NOT EXISTS would ask for the right to create schemas also where there is nothing to create.
    IF to_regnamespace('headwater') IS NULL THEN
        CREATE SCHEMA headwater;
    END IF;
END
$$;

CREATE TABLE IF NOT EXISTS headwater.migrations (
    name       text        NOT NULL CONSTRAINT migrations_pkey PRIMARY KEY,
    checksum   text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
