-- What calls must not leave behind in this database: open transactions, and advisory locks of any session but this one.
-- $1 application_name text: whose sessions to look at, or NULL for everybody's
-- Returns one text each. Takes no locks. Run it outside a transaction: the list of sessions stands still inside one.
SELECT format('session %s is %s since %s, after %s', pid, state, xact_start, quote_literal(left(query, 80))) AS leftover
  FROM pg_stat_activity
 WHERE datname = current_database()
   AND backend_type = 'client backend'
   AND pid <> pg_backend_pid()
   AND ($1::text IS NULL OR application_name = $1)
   AND (xact_start IS NOT NULL OR state LIKE 'idle in transaction%')
 UNION ALL
SELECT format('session %s holds the advisory lock (%s, %s)', coalesce(pid::text, 'none'), classid, objid)
  FROM pg_locks
 WHERE locktype = 'advisory'
   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND pid IS DISTINCT FROM pg_backend_pid()
   AND ($1::text IS NULL OR pid IS NULL OR pid IN (SELECT pid FROM pg_stat_activity WHERE application_name = $1))
