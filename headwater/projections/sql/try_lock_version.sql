-- One version of a projection, for who is about to move its checkpoint; nothing when somebody else is doing so now.
-- $1 name text, $2 role text. Returns the row or nothing. Locks it to the end of the transaction without waiting; relies on projections_pkey.
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
   FOR UPDATE SKIP LOCKED
