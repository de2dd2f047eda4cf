-- Forgotten subjects, the latest first.
-- $1 limit bigint
-- Returns subject and moment. Reads the whole table.
SELECT subject,
       forgotten_at,
       true AS was_forgotten,
       extract(epoch FROM clock_timestamp() - forgotten_at)::float8 AS seconds_ago
  FROM headwater.subject_keys
 WHERE forgotten_at IS NOT NULL
 ORDER BY forgotten_at DESC, subject
 LIMIT $1
