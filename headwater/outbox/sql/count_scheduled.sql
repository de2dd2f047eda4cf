-- How many messages wait; of those, how many are past their moment, and how many failed.
-- $1 type text or NULL, $2 stream_name text or NULL
-- Returns waiting bigint, overdue bigint, failing bigint. Takes no locks.
SELECT count(*) AS waiting,
       count(*) FILTER (WHERE m.due_at <= clock_timestamp()) AS overdue,
       count(*) FILTER (WHERE m.attempts > 0) AS failing
  FROM headwater.scheduled_messages AS m
 WHERE ($1::text IS NULL OR m.type = $1)
   AND ($2::text IS NULL OR m.stream_name = $2)
