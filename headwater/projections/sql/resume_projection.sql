-- Let a stopped projection try again where it stopped.
-- $1 name text. Returns the name if it was stopped, nothing otherwise. Locks the row.
UPDATE headwater.projections
   SET status = 'running',
       error = NULL,
       updated_at = clock_timestamp()
 WHERE name = $1
   AND role = 'live'
   AND status <> 'running'
RETURNING name
