-- A schema by its id.
-- $1 schema_id integer
SELECT schema_text
FROM headwater.schemas
WHERE schema_id = $1;
