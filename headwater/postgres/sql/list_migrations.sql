-- What was applied, in order.
-- Returns name text, checksum text. Takes no locks.
SELECT name, checksum
  FROM headwater.migrations
 ORDER BY name
