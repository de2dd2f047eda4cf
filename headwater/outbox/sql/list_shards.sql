-- Who relays each shard, until when, and how far everything in it is acknowledged by Kafka.
-- Returns shard text, holder uuid, term bigint, expires_at timestamptz, is_held boolean (by the database's clock), epoch bigint,
-- global_position bigint, checkpointed_at timestamptz; what was never written is NULL. Takes no locks.
SELECT shard,
       leases.holder,
       leases.term,
       leases.expires_at,
       coalesce(leases.expires_at > clock_timestamp(), false) AS is_held,
       checkpoints.epoch,
       checkpoints.global_position,
       checkpoints.updated_at AS checkpointed_at
  FROM headwater.relay_leases AS leases
  FULL JOIN headwater.relay_checkpoints AS checkpoints USING (shard)
 ORDER BY shard
