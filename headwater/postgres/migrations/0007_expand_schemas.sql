-- Schemas: which Avro schema an id in a Kafka value means, and which versions of it a subject had.

-- Ids are made from the schema's text, so that databases which know nothing of each other agree on them, and a lost table comes back the same.
CREATE TABLE headwater.schemas (
    schema_id     integer     NOT NULL CONSTRAINT schemas_pkey PRIMARY KEY,
    fingerprint   bytea       NOT NULL CONSTRAINT schemas_fingerprint_key UNIQUE,
    -- Text, not jsonb: the fingerprint is of these very characters.
    schema_text   text        NOT NULL,
    registered_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT schemas_schema_id_positive CHECK (schema_id > 0),
    CONSTRAINT schemas_fingerprint_sha256 CHECK (octet_length(fingerprint) = 32)
);

-- A subject is "<topic>-<full name of the record>"; its versions count from 1.
CREATE TABLE headwater.schema_versions (
    subject       text        NOT NULL COLLATE "C",
    version       integer     NOT NULL,
    schema_id     integer     NOT NULL CONSTRAINT schema_versions_schema_id_fkey REFERENCES headwater.schemas,
    registered_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT schema_versions_pkey PRIMARY KEY (subject, version),
    CONSTRAINT schema_versions_schema_id_key UNIQUE (subject, schema_id),
    CONSTRAINT schema_versions_version_positive CHECK (version > 0)
);

-- A message whose value could not be read may be tried again: its raw record is kept, and its schema may be there by then.
ALTER TABLE headwater.dead_letters
    DROP CONSTRAINT dead_letters_retry_possible,
    ADD CONSTRAINT dead_letters_retry_possible CHECK (
        status NOT IN ('retrying', 'handled') OR num_nulls(handler_name, event_id) = 0
    );
