-- Transactions that have appended and not ended; the first holds the horizon where it is, if its position lies below what was drawn.
-- $1 last position drawn bigint, $2 limit bigint
-- Returns position bigint, began_at timestamptz, pid integer (NULL for a prepared transaction), state text, application_name text, prepared_name text.
-- Takes no locks; lists those of appends in flight. Details of other users' sessions are NULL without pg_read_all_stats.
SELECT appends.position,
       coalesce(activity.xact_start, prepared.prepared) AS began_at,
       appends.pid,
       activity.state,
       activity.application_name,
       prepared.gid AS prepared_name
  FROM (SELECT ((locks.classid::bigint & 65535) << 32) | locks.objid::bigint AS position,
               locks.pid,
               locks.virtualtransaction
          FROM pg_locks AS locks
         WHERE locks.locktype = 'advisory'
           AND locks.objsubid = 1
           AND locks.database = (SELECT databases.oid FROM pg_database AS databases WHERE databases.datname = current_database())
           AND locks.classid::bigint >> 16 = headwater.append_lock_namespace()) AS appends
  LEFT JOIN pg_stat_activity AS activity ON activity.pid = appends.pid
  -- A prepared transaction keeps its session's virtual transaction until the server restarts; its lock on its own id goes with it.
  LEFT JOIN pg_prepared_xacts AS prepared
    ON appends.pid IS NULL
   AND EXISTS (SELECT
                 FROM pg_locks AS ids
                WHERE ids.locktype = 'transactionid'
                  AND ids.pid IS NULL
                  AND ids.virtualtransaction = appends.virtualtransaction
                  AND ids.transactionid = prepared.transaction)
 WHERE appends.position <= $1
 ORDER BY appends.position,
          began_at
 LIMIT $2
