-- A lane handled everything up to an offset. In the effect's transaction, right before its commit: whoever is paused in between loses its session
-- within seconds, or it would hold the lane against its successor for a minute.
-- $1 group_name text, $2 topic text, $3 partition integer, $4 handler_name text, $5 lane_count integer, $6 lane integer, $7 epoch bigint, $8 mark bigint,
-- $9 milliseconds text. Returns one bigint and the setting, or nothing where the lane is somebody else's; the caller then rolls back.
-- Locks the row; relies on consumer_lanes_pkey.
UPDATE headwater.consumer_lanes
   SET mark = $8
 WHERE group_name = $1
   AND topic = $2
   AND partition = $3
   AND handler_name = $4
   AND lane_count = $5
   AND lane = $6
   AND epoch = $7
   AND mark < $8
RETURNING mark,
          set_config('idle_in_transaction_session_timeout', $9, true)
