-- What came due more than a while ago and was not done, by kind: messages for later, recurring schedules, deadlines of sagas.
-- $1 seconds double precision
-- Returns kind text, overdue_count bigint, failing_count bigint (of those, tried and failed), seconds double precision (since the first of them).
-- Takes no locks; relies on scheduled_messages_due_at_idx and saga_deadlines_due_at_idx.
SELECT due.kind,
       count(*) AS overdue_count,
       count(*) FILTER (WHERE due.attempts > 0) AS failing_count,
       EXTRACT(EPOCH FROM clock_timestamp() - min(due.moment))::double precision AS seconds
  FROM (
           SELECT 'message' AS kind, m.due_at AS moment, m.attempts
             FROM headwater.scheduled_messages AS m
            UNION ALL
           SELECT 'schedule', s.next_at, s.attempts
             FROM headwater.schedules AS s
            UNION ALL
           SELECT 'deadline', d.due_at, d.attempts
             FROM headwater.saga_deadlines AS d
            WHERE NOT d.is_failed
       ) AS due
 WHERE due.moment < clock_timestamp() - make_interval(secs => $1)
 GROUP BY due.kind
 ORDER BY due.kind
