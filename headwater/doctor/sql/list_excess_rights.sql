-- What this login may do that breaks the order of the log if it does it.
-- Returns one text each, like "UPDATE on events". Takes no locks.
SELECT format('%s on %s', privileges.privilege, relations.relname) AS excess
  FROM pg_class AS relations
 CROSS JOIN unnest(ARRAY['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) AS privileges (privilege)
 WHERE relations.relnamespace = 'headwater'::regnamespace
   AND relations.relname = 'events'
   AND has_table_privilege(relations.oid, privileges.privilege)
 UNION ALL
SELECT 'UPDATE on global_position_seq'
 WHERE has_sequence_privilege('headwater.global_position_seq', 'UPDATE')
