-- The prepared transactions of this database, quoted for use in a statement.
-- Returns quoted_gid text. Takes no locks.
SELECT quote_literal(gid) AS quoted_gid
  FROM pg_prepared_xacts
 WHERE database = current_database()
