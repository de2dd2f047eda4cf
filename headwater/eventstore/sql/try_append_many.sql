-- Add events to the ends of streams, what nothing stands in the way of (the function's own comment tells its checks and locks).
-- $1 stream_names text[], $2 expected_versions bigint[], $3 event_counts bigint[] or NULL, $4 distinct_types text[],
-- $5 types text[], $6 data jsonb[], $7 metadata jsonb[], $8 event_ids uuid[]
-- Returns versions bigint[], one for each stream, NULL where nothing was stored, and positions bigint[], one for each event that was; or NULL and NULL.
SELECT appended.versions,
       appended.positions
  FROM headwater.try_append_many($1, $2, $3, $4, $5, $6, $7, $8) AS appended
