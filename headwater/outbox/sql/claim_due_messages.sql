-- The due messages of streams that this transaction has locked (lock_due_streams), in order, locked until it ends.
-- $1 stream_names text[], $2 message_count_max integer
-- Returns the messages. One that somebody is cancelling is passed over, and with it what comes behind it in its stream: its outcome is not known.
WITH claimed AS MATERIALIZED (
    SELECT m.*
      FROM headwater.scheduled_messages AS m
     WHERE m.stream_name = ANY ($1::text[])
       AND m.due_at <= (SELECT clock_timestamp())
     ORDER BY m.due_at, m.number
     LIMIT $2
       FOR UPDATE SKIP LOCKED
), chained AS (
    SELECT c.*,
           lag(c.message_id) OVER of_stream AS claimed_before,
           (
               SELECT before.message_id
                 FROM headwater.scheduled_messages AS before
                WHERE before.stream_name = c.stream_name
                  AND (before.due_at, before.number) < (c.due_at, c.number)
                ORDER BY before.due_at DESC, before.number DESC
                LIMIT 1
           ) AS standing_before
      FROM claimed AS c
    WINDOW of_stream AS (PARTITION BY c.stream_name ORDER BY c.due_at, c.number)
), judged AS (
    SELECT c.*,
           bool_and(c.claimed_before IS NOT DISTINCT FROM c.standing_before)
               OVER (PARTITION BY c.stream_name ORDER BY c.due_at, c.number) AS is_next
      FROM chained AS c
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
