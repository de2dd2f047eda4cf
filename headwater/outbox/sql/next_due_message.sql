-- How long until the next message is due, or is to be tried again; negative when that is past.
-- Returns seconds double precision, NULL when there is none. Takes no locks; relies on scheduled_messages_due_at_idx.
-- Messages that failed are few. What else is in its stream is not due before it is.
SELECT EXTRACT(EPOCH FROM min(next.moment) - clock_timestamp())::double precision AS seconds
  FROM (
           (SELECT m.due_at AS moment
              FROM headwater.scheduled_messages AS m
             WHERE m.retry_at IS NULL
               AND (
                       SELECT failed.retry_at
                         FROM headwater.scheduled_messages AS failed
                        WHERE failed.stream_name = m.stream_name
                          AND failed.retry_at IS NOT NULL
                        ORDER BY failed.retry_at
                        LIMIT 1
                   ) IS NULL
             ORDER BY m.due_at, m.number
             LIMIT 1)
            UNION ALL
           (SELECT m.retry_at
              FROM headwater.scheduled_messages AS m
             WHERE m.retry_at IS NOT NULL
             ORDER BY m.retry_at
             LIMIT 1)
       ) AS next
