-- The tables in a schema.
-- $1 schema name text. Returns table_name text, in order. Takes no locks.
SELECT tablename AS table_name
  FROM pg_tables
 WHERE schemaname = $1
 ORDER BY tablename
