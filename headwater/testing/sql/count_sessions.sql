-- How many sessions of one name are connected to this database.
-- $1 application_name text
-- Returns one bigint. Takes no locks.
SELECT count(*)
  FROM pg_stat_activity
 WHERE datname = current_database()
   AND application_name = $1
