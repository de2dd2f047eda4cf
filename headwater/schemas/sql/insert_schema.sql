-- Keep a schema under an id, unless the schema or the id is there already.
-- $1 schema_id integer, $2 fingerprint bytea, $3 schema_text text
INSERT INTO headwater.schemas (schema_id, fingerprint, schema_text)
VALUES ($1, $2, $3)
ON CONFLICT DO NOTHING;
