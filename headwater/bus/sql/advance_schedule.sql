-- Set when a schedule is due next, and for which moment it was fired, if for any.
-- $1 service_name text, $2 schedule_name text, $3 next_at timestamptz, $4 fired_for timestamptz or NULL
UPDATE headwater.schedules AS s
   SET next_at = $3,
       last_due_at = coalesce($4, s.last_due_at),
       last_fired_at = CASE WHEN $4::timestamptz IS NULL THEN s.last_fired_at ELSE clock_timestamp() END,
       fired_count = s.fired_count + CASE WHEN $4::timestamptz IS NULL THEN 0 ELSE 1 END,
       attempts = 0,
       error = NULL,
       retry_at = NULL
 WHERE s.service_name = $1
   AND s.schedule_name = $2
