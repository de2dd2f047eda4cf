-- Destroy the key of a subject and remember when; repeating it changes nothing.
-- $1 subject text
-- Returns when it was forgotten, whether it had been before, and how many seconds ago; no row for an unknown subject. Locks the row.
WITH before AS (
    SELECT subject, forgotten_at
      FROM headwater.subject_keys
     WHERE subject = $1
       FOR UPDATE
)
UPDATE headwater.subject_keys AS keys
   SET wrapped_key = NULL,
       wrapped_by = NULL,
       forgotten_at = coalesce(before.forgotten_at, clock_timestamp())
  FROM before
 WHERE keys.subject = before.subject
RETURNING keys.subject,
          keys.forgotten_at,
          before.forgotten_at IS NOT NULL AS was_forgotten,
          extract(epoch FROM clock_timestamp() - keys.forgotten_at)::float8 AS seconds_ago
