-- How far everything is acknowledged.
-- $1 shard text. Returns epoch bigint, global_position bigint, event_id uuid, or no row. Relies on relay_checkpoints_pkey.
SELECT epoch,
       global_position,
       event_id
  FROM headwater.relay_checkpoints
 WHERE shard = $1
