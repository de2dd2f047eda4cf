-- Keys of a topic that are parked, by group.
-- $1 topic text. Returns group_name text, parked_keys bigint. Takes no locks.
SELECT group_name,
       count(*) AS parked_keys
  FROM headwater.parked_keys
 WHERE topic = $1
 GROUP BY group_name
