-- Which of these streams cannot be archived, for they do not exist or are open.
-- $1 stream_names text[]. Returns stream_name text, is_known boolean. Takes no locks; relies on streams_stream_name_key.
SELECT named.stream_name,
       streams.stream_id IS NOT NULL AS is_known
  FROM unnest($1::text[]) AS named(stream_name)
  LEFT JOIN headwater.streams ON streams.stream_name = named.stream_name
 WHERE streams.closed_at IS NULL
 ORDER BY named.stream_name
