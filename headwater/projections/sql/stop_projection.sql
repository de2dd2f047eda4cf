-- Note that the live version stands still, and why, provided that it is still where the reporter left it.
-- $1 name text, $2 status text, $3 error text, $4 generation bigint, $5 global_position bigint. Locks the row.
UPDATE headwater.projections
   SET status = $2,
       error = $3,
       updated_at = clock_timestamp()
 WHERE name = $1
   AND role = 'live'
   AND generation = $4
   AND global_position = $5
