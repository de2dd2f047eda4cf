-- Keep a lease for longer.
-- $1 shard text, $2 term bigint, $3 seconds double precision
-- Returns the term, or no row when another took the lease. Locks the shard's row; relies on relay_leases_pkey.
UPDATE headwater.relay_leases
   SET expires_at = clock_timestamp() + make_interval(secs => $3)
 WHERE shard = $1
   AND term = $2
RETURNING term
