-- Who owns the log's schema, with whose rights its functions run.
-- Returns owner text, is_superuser boolean. Takes no locks.
SELECT roles.rolname AS owner,
       roles.rolsuper AS is_superuser
  FROM pg_namespace AS schemas
  JOIN pg_roles AS roles ON roles.oid = schemas.nspowner
 WHERE schemas.nspname = 'headwater'
