-- Add events to the ends of streams, all or none, if no other event that a query finds came since it was read.
-- $1 query jsonb, $2 horizon of that read bigint, $3 ids seen above it uuid[]; $4 to $13 as append_unit.sql's $1 to $10
-- Returns versions bigint[] and positions bigint[], one of each for a part. Locks the query's tags and types alone.
SELECT appended.versions,
       appended.positions
  FROM headwater.append_conditionally($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) AS appended
