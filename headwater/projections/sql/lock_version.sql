-- One version of a projection, held still until the end of the transaction.
-- $1 name text, $2 role text. Returns the row or nothing. Waits for its lock; relies on projections_pkey.
SELECT name,
       role,
       schema_name,
       shape,
       fingerprint,
       generation,
       epoch,
       global_position,
       event_id,
       event_count,
       status,
       error,
       updated_at
  FROM headwater.projections
 WHERE name = $1
   AND role = $2
   FOR UPDATE
