-- How many sagas there are of each status.
-- $1 saga_type text or NULL for all
-- Returns status text, saga_count bigint. Takes no locks.
SELECT status,
       count(*) AS saga_count
  FROM headwater.sagas
 WHERE ($1::text IS NULL OR saga_type = $1)
 GROUP BY status
