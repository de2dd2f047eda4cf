-- Let go of a lease, so that the next one need not wait for its end. The row stays: terms never repeat.
-- $1 name text, $2 term bigint. Locks the lease's row; relies on leases_pkey.
UPDATE headwater.leases
   SET holder = NULL,
       expires_at = clock_timestamp()
 WHERE name = $1
   AND term = $2
   AND holder IS NOT NULL
