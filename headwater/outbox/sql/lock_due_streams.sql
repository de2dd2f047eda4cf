-- The streams whose first message is due, the longest due first, each locked by that message to the end of the transaction: only who holds it
-- delivers anything of the stream, so its messages keep their order however many work at once.
-- $1 stream_count_max integer, $2 looked_at_max integer
-- Returns stream_name text. Passes over streams that somebody else delivers, or that wait for a message to be tried again.
-- Looks at so many due messages and no more, lest a stream with very many be read through for every batch. All that stands before a due message in its
-- stream is due, too, so the first of a stream that is met here is the stream's first.
-- The moment is a subquery, so that it is asked for once and scheduled_messages_due_at_idx can be searched by it. The order by retry_at is for
-- scheduled_messages_retry_at_idx: the planner takes failures for common where it knows none.
WITH due AS MATERIALIZED (
    SELECT m.message_id,
           m.stream_name,
           m.due_at,
           m.number
      FROM headwater.scheduled_messages AS m
     WHERE m.due_at <= (SELECT clock_timestamp())
       AND coalesce(
               (
                   SELECT failed.retry_at
                     FROM headwater.scheduled_messages AS failed
                    WHERE failed.stream_name = m.stream_name
                      AND failed.retry_at IS NOT NULL
                    ORDER BY failed.retry_at DESC
                    LIMIT 1
               ) <= (SELECT clock_timestamp()),
               true
           )
     ORDER BY m.due_at, m.number
     LIMIT $2
), ranked AS MATERIALIZED (
    SELECT due.*,
           row_number() OVER (PARTITION BY due.stream_name ORDER BY due.due_at, due.number) AS rank
      FROM due
)
SELECT m.stream_name
  FROM ranked
  JOIN headwater.scheduled_messages AS m
    ON m.message_id = ranked.message_id
 WHERE ranked.rank = 1
   AND (m.retry_at IS NULL OR m.retry_at <= clock_timestamp())
 ORDER BY ranked.due_at, ranked.number
 LIMIT $1
   FOR UPDATE OF m SKIP LOCKED
