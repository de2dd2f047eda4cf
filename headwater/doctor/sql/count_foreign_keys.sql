-- Keys of personal data that another master key encrypts than the one that is configured.
-- $1 name text: of the configured master key, or NULL
-- Returns one bigint. Takes no locks.
SELECT count(*)
  FROM headwater.subject_keys
 WHERE wrapped_by <> coalesce($1::text, '')
