-- Resolve unqualified names in one schema alone until the end of the transaction (rule 23): a table missing there must not be found elsewhere.
-- $1 schema name text
SELECT set_config('search_path', quote_ident($1), true)
