-- How long until the next of these schedules is due, or is to be tried again; negative when that is past.
-- $1 service_name text, $2 schedule_names text[]
-- Returns seconds double precision, NULL when there is none. Takes no locks; relies on schedules_pkey.
SELECT EXTRACT(EPOCH FROM min(greatest(s.next_at, s.retry_at)) - clock_timestamp())::double precision AS seconds
  FROM headwater.schedules AS s
 WHERE s.service_name = $1
   AND s.schedule_name = ANY ($2::text[])
