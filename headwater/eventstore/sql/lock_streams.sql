-- Lock streams, in order of their names.
-- $1 stream_names text[]. Returns stream_id bigint, stream_name text, closed_at timestamptz.
-- Locks their rows to the end of the transaction; relies on streams_stream_name_key.
SELECT streams.stream_id,
       streams.stream_name,
       streams.closed_at
  FROM headwater.streams
 WHERE streams.stream_name = ANY ($1::text[])
 ORDER BY streams.stream_name
   FOR NO KEY UPDATE
