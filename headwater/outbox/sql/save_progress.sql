-- Save how far Kafka acknowledged, if the lease is still of this term.
-- $1 shard text, $2 term bigint, $3 topics text[], $4 partition_numbers integer[], $5 epochs bigint[], $6 global_positions bigint[],
-- $7 kafka_offsets bigint[]: the partitions that moved; $8 epoch bigint, $9 global_position bigint, $10 event_id uuid: the checkpoint
-- Returns the term, or no row when another took the lease; nothing is written then. Locks the lease's row, so that a taking waits for the
-- commit or this waits for the taking; relies on relay_leases_pkey, relay_positions_pkey and relay_checkpoints_pkey.
WITH lease AS MATERIALIZED (
    SELECT term
      FROM headwater.relay_leases
     WHERE shard = $1
       AND term = $2
       FOR SHARE
), moved_positions AS (
    INSERT INTO headwater.relay_positions AS kept (topic, partition_number, epoch, global_position, kafka_offset)
    SELECT moved.topic,
           moved.partition_number,
           moved.epoch,
           moved.global_position,
           moved.kafka_offset
      FROM lease
     CROSS JOIN unnest($3::text[], $4::integer[], $5::bigint[], $6::bigint[], $7::bigint[])
           AS moved(topic, partition_number, epoch, global_position, kafka_offset)
    ON CONFLICT ON CONSTRAINT relay_positions_pkey DO UPDATE
       SET epoch = excluded.epoch,
           global_position = excluded.global_position,
           kafka_offset = excluded.kafka_offset,
           updated_at = clock_timestamp()
), moved_checkpoint AS (
    INSERT INTO headwater.relay_checkpoints (shard, epoch, global_position, event_id)
    SELECT $1, $8, $9, $10
      FROM lease
    ON CONFLICT ON CONSTRAINT relay_checkpoints_pkey DO UPDATE
       SET epoch = excluded.epoch,
           global_position = excluded.global_position,
           event_id = excluded.event_id,
           updated_at = clock_timestamp()
)
SELECT term
  FROM lease
