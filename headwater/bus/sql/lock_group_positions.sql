-- Lock every position of a group, once commits under way are over; list_group_positions then reads them.
-- $1 group_name text. Relies on consumer_positions_pkey.
SELECT
  FROM headwater.consumer_positions
 WHERE group_name = $1
 ORDER BY topic,
          partition
   FOR UPDATE
