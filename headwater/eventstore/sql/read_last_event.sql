-- The last event at or below a horizon read before.
-- $1 horizon bigint (inclusive). Returns global_position bigint, event_id uuid, or nothing. Takes no locks; relies on events_pkey and its like in the archive.
SELECT global_position,
       event_id
  FROM headwater.all_events AS events
 WHERE global_position <= $1
 ORDER BY global_position DESC
 LIMIT 1
