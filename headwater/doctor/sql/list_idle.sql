-- Sessions of this database that have a transaction open and do nothing in it, the oldest first.
-- $1 seconds double precision: only of transactions that began at least so long ago, $2 limit bigint
-- Returns pid integer, application_name text, login text, seconds double precision. Takes no locks. Shows own logins' sessions only without pg_read_all_stats.
SELECT pid,
       application_name,
       usename::text AS login,
       extract(epoch FROM clock_timestamp() - xact_start)::double precision AS seconds
  FROM pg_stat_activity
 WHERE datname = current_database()
   AND state LIKE 'idle in transaction%'
   AND pid <> pg_backend_pid()
   AND clock_timestamp() - xact_start >= make_interval(secs => $1)
 ORDER BY xact_start
 LIMIT $2
