-- Forget a recurring schedule; code that still defines it registers it again when it starts.
-- $1 service_name text, $2 schedule_name text
-- Returns its name, or nothing where there is none. Waits for a firing of it that is under way.
DELETE FROM headwater.schedules WHERE service_name = $1 AND schedule_name = $2 RETURNING schedule_name
