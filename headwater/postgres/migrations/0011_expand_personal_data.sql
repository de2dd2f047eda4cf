-- Personal data: one key for each data subject, under which the marked fields of events and snapshots are encrypted.

-- A row stays for good. Forgetting empties the key and keeps the row: readers then know that the subject was forgotten, and nobody gets a
-- new key for it. The key is stored as it is, or encrypted under the master key that `wrapped_by` names.
CREATE TABLE headwater.subject_keys (
    subject      text        NOT NULL COLLATE "C" CONSTRAINT subject_keys_pkey PRIMARY KEY,
    key_id       uuid        NOT NULL CONSTRAINT subject_keys_key_id_key UNIQUE,
    wrapped_key  bytea,
    wrapped_by   text,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    forgotten_at timestamptz,
    CONSTRAINT subject_keys_forgotten_without_key CHECK ((wrapped_key IS NULL) = (forgotten_at IS NOT NULL)),
    CONSTRAINT subject_keys_wrapping_of_a_key CHECK (wrapped_by IS NULL OR wrapped_key IS NOT NULL)
);
