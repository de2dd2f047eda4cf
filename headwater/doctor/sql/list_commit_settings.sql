-- What ALTER ROLE and ALTER DATABASE say of synchronous_commit, for this database and for those who log in and may use the log (or for all, where there is none yet).
-- Returns role_name text (NULL for every role), database_name text (NULL for every database), value text. Takes no locks.
SELECT roles.rolname AS role_name,
       databases.datname AS database_name,
       split_part(entries.entry, '=', 2) AS value
  FROM pg_db_role_setting AS settings
 CROSS JOIN unnest(settings.setconfig) AS entries (entry)
  LEFT JOIN pg_roles AS roles ON roles.oid = settings.setrole
  LEFT JOIN pg_database AS databases ON databases.oid = settings.setdatabase
 WHERE split_part(entries.entry, '=', 1) = 'synchronous_commit'
   AND (settings.setdatabase = 0 OR databases.datname = current_database())
   AND (settings.setrole = 0
        OR (roles.rolcanlogin
            AND coalesce(has_schema_privilege(roles.oid, to_regnamespace('headwater')::oid, 'USAGE'), TRUE)))
 ORDER BY role_name,
          database_name
