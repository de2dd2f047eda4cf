-- Keys of a group that are parked.
-- $1 group_name text. Returns one bigint. Takes no locks.
SELECT count(*)
  FROM headwater.parked_keys
 WHERE group_name = $1
