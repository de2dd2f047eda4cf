-- The events that any of some queries finds, above a position, in order.
-- $1 query jsonb: [{"types": […], "tags": […]}, …], $2 after bigint (exclusive)
-- Returns the events with their streams' names. Takes no locks; relies on event_tags_pkey, or reads the log for a query without tags.
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
 WHERE events.global_position IN (SELECT headwater.matching_positions($1, $2))
 ORDER BY events.global_position
