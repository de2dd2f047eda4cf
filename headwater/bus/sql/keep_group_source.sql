-- Remember what feeds a group, if nothing is known of it yet.
-- $1 group_name text, $2 source text (kafka or postgres). Waits for another process that does the same; relies on group_sources_pkey.
INSERT INTO headwater.group_sources (group_name, source)
VALUES ($1, $2)
ON CONFLICT ON CONSTRAINT group_sources_pkey DO NOTHING
