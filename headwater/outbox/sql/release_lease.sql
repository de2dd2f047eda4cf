-- Let go of a lease, so that the next relay need not wait for its end. The row stays: terms never repeat.
-- $1 shard text, $2 term bigint. Locks the shard's row; relies on relay_leases_pkey.
UPDATE headwater.relay_leases
   SET expires_at = clock_timestamp()
 WHERE shard = $1
   AND term = $2
