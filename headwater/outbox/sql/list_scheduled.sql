-- Messages that wait, the next due first.
-- $1 message_id uuid or NULL, $2 type text or NULL, $3 stream_name text or NULL, $4 only_failing boolean, $5 count_max integer
-- Returns the messages, personal data sealed, and whether each is overdue. Takes no locks.
SELECT m.message_id,
       m.due_at,
       m.stream_name,
       m.type,
       m.data::text AS data,
       m.metadata::text AS metadata,
       m.tags,
       m.scheduled_at,
       m.attempts,
       m.error,
       m.retry_at
  FROM headwater.scheduled_messages AS m
 WHERE ($1::uuid IS NULL OR m.message_id = $1)
   AND ($2::text IS NULL OR m.type = $2)
   AND ($3::text IS NULL OR m.stream_name = $3)
   AND (NOT $4::boolean OR m.attempts > 0)
 ORDER BY m.due_at, m.number
 LIMIT $5
