-- The next events of the log, up to a horizon read before, archived ones among them.
-- $1 after bigint (exclusive), $2 horizon bigint (inclusive), $3 limit bigint
-- Returns the events with their streams' names, in order. Takes no locks; relies on events_pkey and its like in the archive.
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
 WHERE events.global_position > $1
   AND events.global_position <= $2
 ORDER BY events.global_position
 LIMIT $3
