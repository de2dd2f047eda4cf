-- Add one event to the end of one stream, without waiting for others (the function's own comment tells its checks and locks).
-- $1 stream_name text, $2 expected_version bigint or NULL, $3 type text, $4 data jsonb, $5 metadata jsonb, $6 event_id uuid
-- Returns outcome text, version bigint, global_position bigint, found_id uuid.
SELECT appended.outcome,
       appended.version,
       appended.global_position,
       appended.found_id
  FROM headwater.append_one($1, $2, $3, $4, $5, $6) AS appended
