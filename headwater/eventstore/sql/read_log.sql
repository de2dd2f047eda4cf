-- The next events of the log, up to a horizon read before, without the archive; and how far the archive reaches, under the same snapshot.
-- What it returns is whole if archived_through is at or below $1; else, or if nothing came, ask read_log_with_archive.
-- $1 after bigint (exclusive), $2 horizon bigint (inclusive), $3 limit bigint
-- Returns the events with their streams' names, in order, and archived_through bigint. Takes no locks; relies on events_pkey.
SELECT events.global_position,
       streams.stream_name,
       events.version,
       events.type,
       events.data::text AS data,
       events.metadata::text AS metadata,
       events.event_id,
       events.recorded_at,
       (SELECT coalesce(max(archived.global_position), 0) FROM headwater.archived_events AS archived) AS archived_through
  FROM headwater.events
  JOIN headwater.streams ON streams.stream_id = events.stream_id
 WHERE events.global_position > $1
   AND events.global_position <= $2
 ORDER BY events.global_position
 LIMIT $3
