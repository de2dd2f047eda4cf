-- The event at one position of the log.
-- $1 global_position bigint. Returns it with its stream's name, or nothing. Takes no locks; relies on events_pkey and its like in the archive.
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
 WHERE events.global_position = $1
