-- The leases whose names begin so, also those that nobody holds.
-- $1 prefix text
-- Returns name text, holder text (NULL: given back), term bigint, expires_at timestamptz, is_held boolean (by the database's clock), by name.
-- Takes no locks.
SELECT name,
       holder,
       term,
       expires_at,
       holder IS NOT NULL AND expires_at > clock_timestamp() AS is_held
  FROM headwater.leases
 WHERE starts_with(name, $1)
 ORDER BY name
