-- Forget where a group is, in all topics; its lanes go with it.
-- $1 group_name text. Relies on consumer_positions_pkey.
DELETE FROM headwater.consumer_positions
 WHERE group_name = $1
