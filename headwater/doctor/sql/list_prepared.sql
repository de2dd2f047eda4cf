-- The prepared transactions of this database, the oldest first.
-- $1 limit bigint
-- Returns prepared_name text, quoted_name text, owner text, seconds double precision. Takes no locks.
SELECT gid AS prepared_name,
       quote_literal(gid) AS quoted_name,
       owner::text AS owner,
       extract(epoch FROM clock_timestamp() - prepared)::double precision AS seconds
  FROM pg_prepared_xacts
 WHERE database = current_database()
 ORDER BY prepared
 LIMIT $1
