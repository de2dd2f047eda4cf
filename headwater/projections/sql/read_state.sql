-- One row of a fold, by key. The schema is a checked identifier: a qualified name needs no transaction around it to be safe.
-- $1 key text. Returns the state as JSON text, or nothing. Takes no locks; relies on states_pkey.
SELECT state::text
  FROM {schema}.states
 WHERE key = $1
