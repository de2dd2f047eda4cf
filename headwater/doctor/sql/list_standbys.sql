-- Servers that follow this one; consumers of logical replication are none.
-- Returns name text, sync_state text (NULL without pg_read_all_stats). Takes no locks.
SELECT coalesce(nullif(senders.application_name, ''), senders.pid::text) AS name,
       senders.sync_state
  FROM pg_stat_replication AS senders
  LEFT JOIN pg_replication_slots AS slots ON slots.active_pid = senders.pid
 WHERE slots.slot_type IS DISTINCT FROM 'logical'
   AND senders.state IS DISTINCT FROM 'backup'
 ORDER BY name
