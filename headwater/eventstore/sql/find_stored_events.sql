-- Which of these ids the log has already, archived or not, and where.
-- $1 event_ids uuid[]. Returns event_id uuid, stream_name text, version bigint, type text. Takes no locks; relies on events_event_id_key and its
-- like in the archive. Run it with the streams locked.
SELECT stored.event_id,
       streams.stream_name,
       stored.version,
       stored.type
  FROM headwater.all_events AS stored
  JOIN headwater.streams ON streams.stream_id = stored.stream_id
 WHERE stored.event_id = ANY ($1::uuid[])
