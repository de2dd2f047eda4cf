-- The next streams to archive, locked: whoever else archives waits, and then gets others.
-- $1 stream_names text[] or NULL for all, $2 category text or NULL for all, $3 closed_before timestamptz or NULL for any moment, $4 limit bigint
-- Returns stream_id bigint. Locks the rows of streams; relies on streams_to_archive_idx.
SELECT streams.stream_id
  FROM headwater.streams
 WHERE streams.closed_at IS NOT NULL
   AND streams.archived_at IS NULL
   AND ($1::text[] IS NULL OR streams.stream_name = ANY ($1))
   AND ($2::text IS NULL OR split_part(streams.stream_name, '-', 1) = $2)
   AND ($3::timestamptz IS NULL OR streams.closed_at < $3)
 ORDER BY streams.stream_id
 LIMIT $4
   FOR NO KEY UPDATE
