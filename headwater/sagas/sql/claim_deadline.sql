-- The deadline that has been due longest and whose saga nobody works on, with its saga; both locked until the transaction ends.
-- $1 saga_types text[]
-- Returns one row or nothing. Deadlines are only changed under their saga's lock, so skipping locked sagas cannot deadlock.
-- The moment is a subquery, so that it is asked for once and saga_deadlines_due_at_idx can be searched by it.
SELECT deadlines.kind,
       deadlines.name,
       deadlines.attempts,
       deadlines.period_seconds,
       sagas.saga_type,
       sagas.saga_key,
       sagas.phase,
       sagas.status,
       sagas.state::text AS state,
       sagas.steps::text AS steps,
       sagas.reason,
       sagas.correlation_id,
       sagas.cause_id,
       sagas.history_count
  FROM headwater.saga_deadlines AS deadlines
  JOIN headwater.sagas AS sagas
    ON sagas.saga_type = deadlines.saga_type
   AND sagas.saga_key = deadlines.saga_key
 WHERE deadlines.saga_type = ANY ($1::text[])
   AND NOT deadlines.is_failed
   AND deadlines.due_at <= (SELECT clock_timestamp())
 ORDER BY deadlines.due_at
 LIMIT 1
   FOR NO KEY UPDATE OF sagas, deadlines SKIP LOCKED
