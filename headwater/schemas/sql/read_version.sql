-- The version of a subject that has this schema. Index: schema_versions_schema_id_key.
-- $1 subject text, $2 schema_id integer
SELECT version
FROM headwater.schema_versions
WHERE subject = $1
    AND schema_id = $2;
