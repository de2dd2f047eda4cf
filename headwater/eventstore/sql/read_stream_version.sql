-- How many events a stream has.
-- $1 stream_name text. Returns one bigint, 0 for a stream that does not exist. Takes no locks; relies on events_stream_id_version_key and its like in the archive.
SELECT coalesce(max(events.version), 0)
  FROM headwater.all_events AS events
  JOIN headwater.streams ON streams.stream_id = events.stream_id
 WHERE streams.stream_name = $1
