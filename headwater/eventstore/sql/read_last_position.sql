-- The position of the last event at or below a horizon; 0 when there is none.
-- $1 horizon bigint. Returns one bigint. Takes no locks; relies on events_pkey.
SELECT coalesce(max(global_position), 0)
  FROM headwater.events
 WHERE global_position <= $1
