-- Recurring schedules, the next due first.
-- $1 service_name text or NULL
-- Takes no locks.
SELECT s.service_name,
       s.schedule_name,
       s.cron,
       s.timezone,
       s.next_at,
       s.last_due_at,
       s.last_fired_at,
       s.fired_count,
       s.registered_at,
       s.attempts,
       s.error
  FROM headwater.schedules AS s
 WHERE $1::text IS NULL OR s.service_name = $1
 ORDER BY s.next_at, s.service_name, s.schedule_name
