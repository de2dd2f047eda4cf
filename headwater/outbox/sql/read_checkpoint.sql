-- How far everything in a shard is acknowledged, and whose relay must be fenced off it yet.
-- $1 shard text. Returns epoch bigint, global_position bigint, event_id uuid, predecessor text, or no row. Relies on relay_checkpoints_pkey.
SELECT epoch,
       global_position,
       event_id,
       predecessor
  FROM headwater.relay_checkpoints
 WHERE shard = $1
