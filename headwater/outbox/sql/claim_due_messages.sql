-- The due messages of streams that this transaction has locked (lock_due_streams), in order, locked until it ends.
-- $1 stream_names text[], $2 message_count_max integer
-- Returns the messages. One that somebody is cancelling is passed over, and with it what comes behind it in its stream: its outcome is not known.
WITH due AS MATERIALIZED (
    SELECT m.message_id,
           m.stream_name,
           m.due_at,
           m.number
      FROM unnest($1::text[]) AS streams(stream_name)
     CROSS JOIN LATERAL (
               SELECT found.message_id,
                      found.stream_name,
                      found.due_at,
                      found.number
                 FROM headwater.scheduled_messages AS found
                WHERE found.stream_name = streams.stream_name
                  AND found.due_at <= (SELECT clock_timestamp())
                ORDER BY found.due_at, found.number
                LIMIT $2
           ) AS m
     ORDER BY m.due_at, m.number
     LIMIT $2
), locked AS MATERIALIZED (
    SELECT m.*
      FROM due
      JOIN headwater.scheduled_messages AS m
        ON m.message_id = due.message_id
       FOR UPDATE OF m SKIP LOCKED
), judged AS (
    SELECT locked.*,
           bool_and(locked.message_id IS NOT NULL) OVER (PARTITION BY due.stream_name ORDER BY due.due_at, due.number) AS is_next
      FROM due
      LEFT JOIN locked
        ON locked.message_id = due.message_id
)
SELECT j.message_id,
       j.due_at,
       j.stream_name,
       j.type,
       j.data::text AS data,
       j.metadata::text AS metadata,
       j.tags,
       j.scheduled_at,
       j.attempts,
       j.error,
       j.retry_at
  FROM judged AS j
 WHERE j.is_next
 ORDER BY j.due_at, j.number
