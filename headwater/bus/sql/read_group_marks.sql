-- How far a group got in every partition of a topic that it ever claimed.
-- $1 group_name text, $2 topic text. Returns partition integer, marks text. Takes no locks; relies on consumer_positions_pkey.
SELECT partition,
       marks::text AS marks
  FROM headwater.consumer_positions
 WHERE group_name = $1
   AND topic = $2
