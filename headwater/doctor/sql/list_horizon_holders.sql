-- Transactions that have appended and not ended, while positions above theirs were drawn: readers wait for them. The lowest first.
-- $1 limit bigint
-- Returns pid integer (NULL for a prepared transaction), application_name text, login text, prepared_name text, quoted_name text,
-- seconds double precision (NULL for others' sessions without pg_read_all_stats). Takes no locks.
SELECT appends.pid,
       activity.application_name,
       coalesce(activity.usename, prepared.owner)::text AS login,
       prepared.gid AS prepared_name,
       quote_literal(prepared.gid) AS quoted_name,
       extract(epoch FROM clock_timestamp() - coalesce(activity.xact_start, prepared.prepared))::double precision AS seconds
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
 WHERE appends.position < (SELECT last_value - (NOT is_called)::integer FROM headwater.global_position_seq)
 ORDER BY appends.position,
          seconds DESC
 LIMIT $1
