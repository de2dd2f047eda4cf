-- A recurring schedule that is due and that nobody else fires now, locked until the transaction ends.
-- $1 service_name text, $2 schedule_names text[]
-- Returns one row or nothing: schedule_name text, cron text, timezone text, next_at timestamptz, attempts integer, now timestamptz. Relies on schedules_pkey.
SELECT s.schedule_name,
       s.cron,
       s.timezone,
       s.next_at,
       s.attempts,
       clock_timestamp() AS now
  FROM headwater.schedules AS s
 WHERE s.service_name = $1
   AND s.schedule_name = ANY ($2::text[])
   AND s.next_at <= clock_timestamp()
   AND (s.retry_at IS NULL OR s.retry_at <= clock_timestamp())
 ORDER BY s.next_at
 LIMIT 1
   FOR NO KEY UPDATE SKIP LOCKED
