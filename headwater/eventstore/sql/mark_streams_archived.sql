-- Mark those of the streams of which no event is left in the hot table.
-- $1 stream_ids bigint[], locked before. Returns one bigint, how many were marked. Relies on events_stream_id_version_key.
WITH marked AS (
    UPDATE headwater.streams
       SET archived_at = clock_timestamp()
     WHERE stream_id = ANY ($1)
       AND NOT EXISTS (SELECT FROM headwater.events WHERE events.stream_id = streams.stream_id)
    RETURNING stream_id
)
SELECT count(*)
  FROM marked
