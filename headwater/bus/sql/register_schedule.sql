-- Keep a recurring schedule. One that is kept already is moved only where its cron expression or time zone changed.
-- $1 service_name text, $2 schedule_name text, $3 cron text, $4 timezone text, $5 next_at timestamptz
-- Returns nothing. Waits for a firing of it that is under way.
INSERT INTO headwater.schedules AS s (service_name, schedule_name, cron, timezone, next_at)
VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT ON CONSTRAINT schedules_pkey
    DO UPDATE SET cron = excluded.cron,
                  timezone = excluded.timezone,
                  next_at = excluded.next_at,
                  registered_at = clock_timestamp(),
                  attempts = 0,
                  error = NULL,
                  retry_at = NULL
            WHERE (s.cron, s.timezone) IS DISTINCT FROM (excluded.cron, excluded.timezone)
