-- Whose open transaction holds the row of one of these streams.
-- $1 stream_names text[]
-- Returns pid integer (NULL for a prepared transaction), application_name text, state text, began_at timestamptz (UTC), prepared_name text; or nothing.
-- Takes no locks. Details of other users' sessions are NULL without pg_read_all_stats.
SELECT activity.pid,
       activity.application_name,
       activity.state,
       coalesce(activity.xact_start, prepared.prepared, now()) AS began_at,
       prepared.gid AS prepared_name
  FROM headwater.streams
  LEFT JOIN pg_locks AS locks
         ON locks.locktype = 'transactionid'
        AND locks.transactionid = streams.xmax
        AND locks.granted
        AND locks.mode = 'ExclusiveLock'
  LEFT JOIN pg_stat_activity AS activity ON activity.pid = locks.pid
  LEFT JOIN pg_prepared_xacts AS prepared ON prepared.transaction = streams.xmax
 WHERE streams.stream_name = ANY ($1)
   AND (activity.pid IS NOT NULL OR prepared.gid IS NOT NULL)
 LIMIT 1
