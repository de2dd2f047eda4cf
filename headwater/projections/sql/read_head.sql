-- The position of the last event committed, at or below a limit; 0 when there is none. Events in flight below it may still come.
-- $1 limit bigint or NULL for none. Takes no locks; relies on events_pkey and its like in the archive.
SELECT coalesce(max(events.global_position), 0)
  FROM headwater.all_events AS events
 WHERE events.global_position <= coalesce($1, 9223372036854775807)
