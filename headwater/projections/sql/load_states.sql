-- The stored rows of a fold with these keys, in the schema that the search path names.
-- $1 keys text[]. Returns key text, state text (JSON). Takes no locks: the checkpoint's holder alone writes; relies on states_pkey.
SELECT key,
       state::text AS state
  FROM states
 WHERE key = ANY ($1)
