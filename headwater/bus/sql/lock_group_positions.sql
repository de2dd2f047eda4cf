-- How far a group got, as list_group_positions has it; every row is locked, once commits under way are over.
-- $1 group_name text. Relies on consumer_positions_pkey.
SELECT topic,
       partition,
       epoch,
       next_offset,
       marks::text AS marks
  FROM headwater.consumer_positions
 WHERE group_name = $1
 ORDER BY topic,
          partition
   FOR UPDATE
