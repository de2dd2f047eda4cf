-- The id of the event at one position, if there is one.
-- $1 global_position bigint. Returns one uuid or nothing. Relies on events_pkey and its like in the archive.
SELECT event_id
  FROM headwater.all_events AS events
 WHERE global_position = $1
