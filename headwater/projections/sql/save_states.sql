-- Store the rows of a fold; a row that is as it was is not written.
-- $1 keys text[], $2 states jsonb[]. In the schema that the search path names; locks the rows written; relies on states_pkey.
INSERT INTO states AS stored (key, state)
SELECT changed.key, changed.state
  FROM unnest($1::text[], $2::jsonb[]) AS changed(key, state)
    ON CONFLICT ON CONSTRAINT states_pkey DO UPDATE
   SET state = excluded.state
 WHERE stored.state IS DISTINCT FROM excluded.state
