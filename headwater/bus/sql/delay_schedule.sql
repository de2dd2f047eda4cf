-- Note that a firing failed, and when to try again.
-- $1 service_name text, $2 schedule_name text, $3 error text, $4 seconds double precision
UPDATE headwater.schedules AS s
   SET attempts = s.attempts + 1,
       error = $3,
       retry_at = clock_timestamp() + make_interval(secs => $4)
 WHERE s.service_name = $1
   AND s.schedule_name = $2
