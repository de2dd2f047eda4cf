-- Add events to the ends of streams, many appends in one call, each with its own outcome (the function's own comment tells its checks and locks).
-- $1 stream_names text[], $2 part_units int[], $3 part_streams int[], $4 expected_versions bigint[], $5 event_counts int[],
-- $6 types text[], $7 data jsonb[], $8 metadata jsonb[], $9 event_ids uuid[], $10 tag_events int[] or NULL, $11 tags text[] or NULL
-- Returns outcomes text[], versions bigint[], positions bigint[], found_ids uuid[], one of each for a part.
SELECT appended.outcomes,
       appended.versions,
       appended.positions,
       appended.found_ids
  FROM headwater.append_group($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) AS appended
