-- How far every group got in a topic.
-- $1 topic text. Returns group_name text, partition integer, marks text (JSON: the position of the last event applied, by log), by group and
-- partition. Takes no locks.
SELECT group_name,
       partition,
       marks::text AS marks
  FROM headwater.consumer_positions
 WHERE topic = $1
 ORDER BY group_name,
          partition
