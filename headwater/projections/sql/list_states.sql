-- Rows of a fold in order of key. The schema is a checked identifier: a qualified name needs no transaction around it to be safe.
-- $1 after key text or NULL (exclusive), $2 limit bigint. Returns key text, state text (JSON). Takes no locks; relies on states_pkey.
SELECT key,
       state::text AS state
  FROM {schema}.states
 WHERE $1::text IS NULL
    OR key > $1::text
 ORDER BY key
 LIMIT $2
