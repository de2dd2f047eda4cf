-- The identity of a schema; another one of the same name has another.
-- $1 schema name text. Returns one bigint, NULL when there is no such schema. Takes no locks.
SELECT to_regnamespace(quote_ident($1))::oid::bigint
