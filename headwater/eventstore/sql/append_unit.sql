-- Add events to the ends of streams, all or none, waiting for what others hold (the function's own comment tells its checks and locks).
-- $1 stream_names text[], $2 part_streams int[], $3 expected_versions bigint[], $4 event_counts int[],
-- $5 types text[], $6 data jsonb[], $7 metadata jsonb[], $8 event_ids uuid[], $9 tag_events int[] or NULL, $10 tags text[] or NULL
-- Returns versions bigint[] and positions bigint[], one of each for a part.
SELECT appended.versions,
       appended.positions
  FROM headwater.append_unit($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) AS appended
