-- How far a group got, by topic and partition.
-- $1 group_name text. Returns topic text, partition integer, epoch bigint, next_offset bigint, marks text (JSON: the position of the last event
-- applied, by log). Takes no locks; relies on consumer_positions_pkey.
SELECT topic,
       partition,
       epoch,
       next_offset,
       marks::text AS marks
  FROM headwater.consumer_positions
 WHERE group_name = $1
 ORDER BY topic,
          partition
