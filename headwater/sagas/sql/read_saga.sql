-- One saga as it is now.
-- $1 saga_type text, $2 saga_key text
-- Returns the row or nothing. Takes no locks; relies on sagas_pkey.
SELECT saga_type,
       saga_key,
       status,
       phase,
       state::text AS state,
       steps::text AS steps,
       reason,
       started_at,
       updated_at,
       ended_at
  FROM headwater.sagas
 WHERE saga_type = $1
   AND saga_key = $2
