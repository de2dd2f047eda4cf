-- What the log's writer may do, or where no roles were set up its owner, and this login may not.
-- $1 writer text: the role that services are meant to have, or NULL
-- Returns one text each, like "EXECUTE on append_group". Takes no locks.
WITH reference AS (
    SELECT coalesce($1::text, schemas.nspowner::regrole::text) AS role_name
      FROM pg_namespace AS schemas
     WHERE schemas.nspname = 'headwater'
)
SELECT format('%s on %s', privileges.privilege, relations.relname) AS missing
  FROM reference
 CROSS JOIN pg_class AS relations
 CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS privileges (privilege)
 WHERE relations.relnamespace = 'headwater'::regnamespace
   AND relations.relkind IN ('r', 'p', 'v', 'm')
   AND has_table_privilege(reference.role_name::regrole, relations.oid, privileges.privilege)
   AND NOT has_table_privilege(relations.oid, privileges.privilege)
 UNION ALL
SELECT format('EXECUTE on %s', functions.proname)
  FROM reference
 CROSS JOIN pg_proc AS functions
 WHERE functions.pronamespace = 'headwater'::regnamespace
   AND has_function_privilege(reference.role_name::regrole, functions.oid, 'EXECUTE')
   AND NOT has_function_privilege(functions.oid, 'EXECUTE')
 UNION ALL
SELECT format('CREATE on database %s', current_database())
 WHERE NOT has_database_privilege(current_database(), 'CREATE')
