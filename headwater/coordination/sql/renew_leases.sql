-- Keep leases for longer, also those that ran out and that nobody took.
-- $1 names text[], $2 terms bigint[], $3 seconds double precision
-- Returns name text, expires_at timestamptz of each that is still of its term and was not given back. Locks those rows, in the order of their
-- names, so that two who renew the same never wait for each other in a circle; relies on leases_pkey.
WITH kept AS MATERIALIZED (
    SELECT lease.name
      FROM unnest($1::text[], $2::bigint[]) AS given(name, term)
      JOIN headwater.leases AS lease
        ON lease.name = given.name
       AND lease.term = given.term
     WHERE lease.holder IS NOT NULL
     ORDER BY lease.name
       FOR NO KEY UPDATE OF lease
)
UPDATE headwater.leases AS lease
   SET expires_at = clock_timestamp() + make_interval(secs => $3)
  FROM kept
 WHERE lease.name = kept.name
RETURNING lease.name,
          lease.expires_at
