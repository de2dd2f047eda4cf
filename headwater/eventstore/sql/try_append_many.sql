-- Add events to the ends of streams, what nothing stands in the way of (the function's own comment tells its checks and locks).
-- $1 stream_names text[], $2 expected_versions bigint[], $3 event_counts bigint[] or NULL, $4 types text[], $5 data jsonb[], $6 metadata jsonb[], $7 event_ids uuid[]
-- Returns versions bigint[], one for each stream, NULL where nothing was stored, and positions bigint[], one for each event that was; or NULL and NULL.
SELECT appended.versions,
       appended.positions
  FROM headwater.try_append_many($1, $2, $3, $4, $5, $6, $7) AS appended
