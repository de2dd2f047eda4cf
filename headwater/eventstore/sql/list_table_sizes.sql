-- What Headwater's tables take on disk, largest first.
-- Returns table_name text, total_bytes bigint, index_bytes bigint, row_estimate bigint (-1 before the first ANALYZE). Takes no locks.
SELECT tables.relname::text AS table_name,
       pg_total_relation_size(tables.oid) AS total_bytes,
       pg_indexes_size(tables.oid) AS index_bytes,
       tables.reltuples::bigint AS row_estimate
  FROM pg_class AS tables
 WHERE tables.relnamespace = 'headwater'::regnamespace
   AND tables.relkind IN ('r', 'p')
 ORDER BY total_bytes DESC,
          table_name
