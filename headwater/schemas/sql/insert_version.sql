-- The next version of a subject, unless it had this schema before. Needs the lock of lock_schemas.
-- $1 subject text, $2 schema_id integer
INSERT INTO headwater.schema_versions (subject, version, schema_id)
SELECT $1, coalesce(max(version), 0) + 1, $2
FROM headwater.schema_versions
WHERE subject = $1
ON CONFLICT ON CONSTRAINT schema_versions_schema_id_key DO NOTHING;
