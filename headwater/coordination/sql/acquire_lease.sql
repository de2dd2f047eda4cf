-- Take a lease that nobody holds by the database's clock, or that this holder holds already.
-- $1 name text, $2 holder text, $3 seconds double precision
-- Returns the new term bigint and expires_at timestamptz, or no row while another holds it. Locks the lease's row; relies on leases_pkey.
INSERT INTO headwater.leases AS lease (name, holder, term, expires_at)
VALUES ($1, $2, 1, clock_timestamp() + make_interval(secs => $3))
ON CONFLICT ON CONSTRAINT leases_pkey DO UPDATE
   SET holder = excluded.holder,
       term = lease.term + 1,
       expires_at = clock_timestamp() + make_interval(secs => $3)
 WHERE lease.holder IS NULL
    OR lease.holder = excluded.holder
    OR lease.expires_at <= clock_timestamp()
RETURNING term,
          expires_at
