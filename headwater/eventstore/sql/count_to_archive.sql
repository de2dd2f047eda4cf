-- How many streams wait to be archived, and how many events they have left.
-- $1 stream_names text[] or NULL for all, $2 category text or NULL for all, $3 closed_before timestamptz or NULL for any moment
-- Returns stream_count bigint, event_count bigint. Takes no locks; relies on streams_to_archive_idx and events_stream_id_version_key.
SELECT count(*) AS stream_count,
       coalesce(sum((SELECT count(*) FROM headwater.events WHERE events.stream_id = streams.stream_id)), 0)::bigint AS event_count
  FROM headwater.streams
 WHERE streams.closed_at IS NOT NULL
   AND streams.archived_at IS NULL
   AND ($1::text[] IS NULL OR streams.stream_name = ANY ($1))
   AND ($2::text IS NULL OR split_part(streams.stream_name, '-', 1) = $2)
   AND ($3::timestamptz IS NULL OR streams.closed_at < $3)
