-- A saga, locked until the transaction ends.
-- $1 saga_type text, $2 saga_key text
-- Returns the row or nothing. Locks it; foreign keys of its deadlines and history do not wait for that. Relies on sagas_pkey.
SELECT saga_type,
       saga_key,
       phase,
       status,
       state::text AS state,
       steps::text AS steps,
       reason,
       correlation_id,
       cause_id,
       history_count
  FROM headwater.sagas
 WHERE saga_type = $1
   AND saga_key = $2
   FOR NO KEY UPDATE
