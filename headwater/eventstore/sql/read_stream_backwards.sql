-- Events of one stream, from a version down.
-- $1 stream_name text, $2 from_version bigint (inclusive), $3 limit bigint
-- Returns the events with their stream's name. Takes no locks; relies on events_stream_id_version_key and its like in the archive.
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
 WHERE streams.stream_name = $1
   AND events.version <= $2
 ORDER BY events.version DESC
 LIMIT $3
