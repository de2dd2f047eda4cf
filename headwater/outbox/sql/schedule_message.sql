-- Keep a message for later.
-- $1 stream_name text, $2 type text, $3 data jsonb, $4 metadata jsonb, $5 message_id uuid, $6 due_at timestamptz or NULL, $7 after_seconds double precision
-- or NULL (one of the two), $8 tags text[]
-- Returns due_at timestamptz. Raises HW002, HW003; the function's own comment tells when.
SELECT headwater.schedule_event($1, $2, $3, $4, $5, $6, $7, $8)
