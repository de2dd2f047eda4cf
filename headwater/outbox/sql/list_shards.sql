-- Who relays each of these shards, until when, and how far everything in it is acknowledged by Kafka.
-- $1 shards text[], $2 lease_names text[]: one for each
-- Returns, in that order, shard text, holder text, term bigint, expires_at timestamptz, is_held boolean (by the database's clock), epoch bigint,
-- global_position bigint, checkpointed_at timestamptz; what was never written is NULL. Takes no locks.
SELECT shards.shard,
       leases.holder,
       leases.term,
       leases.expires_at,
       coalesce(leases.holder IS NOT NULL AND leases.expires_at > clock_timestamp(), false) AS is_held,
       checkpoints.epoch,
       checkpoints.global_position,
       checkpoints.updated_at AS checkpointed_at
  FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS shards(shard, lease_name, number)
  LEFT JOIN headwater.leases AS leases
    ON leases.name = shards.lease_name
  LEFT JOIN headwater.relay_checkpoints AS checkpoints
    ON checkpoints.shard = shards.shard
 ORDER BY shards.number
