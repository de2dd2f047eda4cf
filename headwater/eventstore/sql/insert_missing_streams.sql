-- Create those of the streams that do not exist.
-- $1 stream_names text[]. Returns nothing. Locks the new rows, in order of their names; waits for whoever creates the same; relies on
-- streams_stream_name_key.
INSERT INTO headwater.streams (stream_name)
SELECT named.stream_name
  FROM unnest($1::text[]) AS named(stream_name)
 ORDER BY named.stream_name
    ON CONFLICT ON CONSTRAINT streams_stream_name_key DO NOTHING
