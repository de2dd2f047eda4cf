-- How long until the next deadline passes; negative when it has.
-- $1 saga_types text[]
-- Returns seconds double precision, NULL when there is none. Takes no locks; relies on saga_deadlines_due_at_idx.
SELECT EXTRACT(EPOCH FROM deadlines.due_at - clock_timestamp())::double precision AS seconds
  FROM headwater.saga_deadlines AS deadlines
 WHERE deadlines.saga_type = ANY ($1::text[])
   AND NOT deadlines.is_failed
 ORDER BY deadlines.due_at
 LIMIT 1
