-- The row as it is now, if the epoch is still the one that was claimed.
-- $1 group_name text, $2 topic text, $3 partition integer, $4 epoch bigint
-- Returns the row or nothing. Locks it for a moment, so as to wait for a commit under way; relies on consumer_positions_pkey.
SELECT epoch,
       next_offset,
       marks::text AS marks,
       last_offset,
       last_log_id,
       last_position,
       last_event_id
  FROM headwater.consumer_positions
 WHERE group_name = $1
   AND topic = $2
   AND partition = $3
   AND epoch = $4
   FOR NO KEY UPDATE
