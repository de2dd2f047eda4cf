-- The deadlines of one saga.
-- $1 saga_type text, $2 saga_key text
-- Returns them by moment. Takes no locks; relies on saga_deadlines_pkey.
SELECT kind,
       name,
       due_at,
       period_seconds,
       attempts,
       is_failed,
       error
  FROM headwater.saga_deadlines
 WHERE saga_type = $1
   AND saga_key = $2
 ORDER BY due_at, kind, name
