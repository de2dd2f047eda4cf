-- Forget a version's checkpoint.
-- $1 name text, $2 role text. Locks the row.
DELETE FROM headwater.projections
 WHERE name = $1
   AND role = $2
