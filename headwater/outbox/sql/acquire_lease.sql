-- Take the lease of a shard when nobody holds it, by the database's clock.
-- $1 shard text, $2 holder uuid, $3 seconds double precision
-- Returns the new term bigint, or no row while another holds it. Locks the shard's row; relies on relay_leases_pkey.
INSERT INTO headwater.relay_leases AS lease (shard, holder, term, expires_at)
VALUES ($1, $2, 1, clock_timestamp() + make_interval(secs => $3))
ON CONFLICT ON CONSTRAINT relay_leases_pkey DO UPDATE
   SET holder = excluded.holder,
       term = lease.term + 1,
       expires_at = clock_timestamp() + make_interval(secs => $3)
 WHERE lease.expires_at <= clock_timestamp()
    OR lease.holder = excluded.holder
RETURNING lease.term
