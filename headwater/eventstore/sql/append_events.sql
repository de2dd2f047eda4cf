-- Add events to the end of one stream, all or none (the function's own comment tells its checks and locks).
-- $1 stream_name text, $2 expected_version bigint or NULL, $3 types text[], $4 data jsonb[], $5 metadata jsonb[], $6 event_ids uuid[]
-- Returns version bigint, global_position bigint of the last event.
SELECT appended.version,
       appended.global_position
  FROM headwater.append_events($1, $2, $3, $4, $5, $6) AS appended
