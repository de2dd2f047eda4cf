-- The streams whose first message is due, the longest due first, each locked by that message to the end of the transaction: only who holds it
-- delivers anything of the stream, so its messages keep their order however many work at once.
-- $1 stream_count_max integer, $2 looked_at_max integer
-- Returns stream_name text. Passes over streams that somebody else delivers, or whose first message is to be tried again later.
-- Looks at so many due messages and no more, lest a stream with very many be read through for every batch.
-- The moment is a subquery, so that it is asked for once and scheduled_messages_due_at_idx can be searched by it.
WITH due AS MATERIALIZED (
    SELECT m.message_id
      FROM headwater.scheduled_messages AS m
     WHERE m.due_at <= (SELECT clock_timestamp())
       AND NOT EXISTS (
               SELECT
                 FROM headwater.scheduled_messages AS failed
                WHERE failed.stream_name = m.stream_name
                  AND failed.retry_at > (SELECT clock_timestamp())
                  AND (failed.due_at, failed.number) <= (m.due_at, m.number)
           )
     ORDER BY m.due_at, m.number
     LIMIT $2
)
SELECT m.stream_name
  FROM due
  JOIN headwater.scheduled_messages AS m
    ON m.message_id = due.message_id
 WHERE NOT EXISTS (
           SELECT
             FROM headwater.scheduled_messages AS earlier
            WHERE earlier.stream_name = m.stream_name
              AND (earlier.due_at, earlier.number) < (m.due_at, m.number)
       )
 ORDER BY m.due_at, m.number
 LIMIT $1
   FOR UPDATE OF m SKIP LOCKED
