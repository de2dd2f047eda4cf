-- The id of a schema. Index: schemas_fingerprint_key.
-- $1 fingerprint bytea
SELECT schema_id
FROM headwater.schemas
WHERE fingerprint = $1;
