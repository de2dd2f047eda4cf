-- Sagas, newest first, with the errors of deadlines that wait for a person.
-- $1 status text or NULL for any, $2 saga_type text or NULL for any, $3 limit bigint
-- Returns one row for each. Takes no locks; relies on sagas_status_idx where a status is given.
SELECT sagas.saga_type,
       sagas.saga_key,
       sagas.status,
       sagas.phase,
       sagas.reason,
       sagas.started_at,
       sagas.updated_at,
       sagas.ended_at,
       ARRAY(
           SELECT deadlines.name || ': ' || deadlines.error
             FROM headwater.saga_deadlines AS deadlines
            WHERE deadlines.saga_type = sagas.saga_type
              AND deadlines.saga_key = sagas.saga_key
              AND deadlines.is_failed
            ORDER BY deadlines.due_at
       ) AS stuck_because
  FROM headwater.sagas AS sagas
 WHERE ($1::text IS NULL OR sagas.status = $1)
   AND ($2::text IS NULL OR sagas.saga_type = $2)
 ORDER BY sagas.started_at DESC, sagas.saga_type, sagas.saga_key
 LIMIT $3
