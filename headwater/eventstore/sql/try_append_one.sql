-- Add one event to the end of one stream, if nothing stands in the way (the function's own comment tells its checks and locks).
-- $1 stream_name text, $2 expected_version bigint or NULL, $3 type text, $4 data jsonb, $5 metadata jsonb, $6 event_id uuid
-- Returns one bigint[]: version and global_position; NULL where it was not stored.
SELECT headwater.try_append_one($1, $2, $3, $4, $5, $6)
