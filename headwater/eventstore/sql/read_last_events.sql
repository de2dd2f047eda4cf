-- The last events that a filter finds, newest first, up to a horizon read before.
-- $1 horizon bigint (inclusive), $2 category text, $3 type text, $4 stream_name text: NULL for all; $5 limit bigint
-- Returns the events with their streams' names. Takes no locks; relies on events_pkey and its like in the archive, reading back until it has enough.
SELECT events.global_position,
       streams.stream_name,
       events.version,
       events.type,
       events.data::text AS data,
       events.metadata::text AS metadata,
       events.event_id,
       events.recorded_at
  FROM headwater.all_events AS events
  JOIN headwater.streams ON streams.stream_id = events.stream_id
 WHERE events.global_position <= $1
   AND ($2::text IS NULL OR split_part(streams.stream_name, '-', 1) = $2)
   AND ($3::text IS NULL OR events.type = $3)
   AND ($4::text IS NULL OR streams.stream_name = $4)
 ORDER BY events.global_position DESC
 LIMIT $5
