-- Every version of every projection that this database knows.
-- Returns the rows by name, the live version first. Takes no locks.
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
 ORDER BY name, role
