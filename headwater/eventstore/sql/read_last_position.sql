-- The position of the last event at or below a horizon; 0 when there is none.
-- $1 horizon bigint. Returns one bigint. Takes no locks; relies on events_pkey and its like in the archive.
SELECT coalesce(max(global_position), 0)
  FROM headwater.all_events AS events
 WHERE global_position <= $1
