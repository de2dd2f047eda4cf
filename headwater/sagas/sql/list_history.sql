-- The transitions of one saga, in order.
-- $1 saga_type text, $2 saga_key text
-- Returns them all. Takes no locks; relies on saga_history_pkey.
SELECT number,
       happened_at,
       kind,
       subject,
       detail
  FROM headwater.saga_history
 WHERE saga_type = $1
   AND saga_key = $2
 ORDER BY number
