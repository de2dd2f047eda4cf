-- Begin a version of a projection at the start of the log, unless it exists.
-- $1 name text, $2 role text, $3 schema_name text, $4 shape text, $5 fingerprint text
-- Returns the name if the row is new, nothing otherwise. Locks the new row; waits for another's uncommitted one.
INSERT INTO headwater.projections (name, role, schema_name, shape, fingerprint)
VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT ON CONSTRAINT projections_pkey DO NOTHING
RETURNING name
