-- Transactions that hold or want a lock on a stream's row, such as appends in flight; without prepared ones and this session's own.
-- Returns virtual_transaction text, pid integer. Takes no locks.
SELECT DISTINCT locks.virtualtransaction AS virtual_transaction,
       locks.pid
  FROM pg_locks AS locks
 WHERE locks.locktype = 'relation'
   AND locks.database = (SELECT databases.oid FROM pg_database AS databases WHERE databases.datname = current_database())
   AND locks.relation = 'headwater.streams'::regclass
   AND locks.mode IN ('RowShareLock', 'RowExclusiveLock')
   AND locks.pid <> pg_backend_pid()
