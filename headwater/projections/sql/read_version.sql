-- One version of a projection.
-- $1 name text, $2 role text. Returns the row or nothing. Takes no locks; relies on projections_pkey.
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
