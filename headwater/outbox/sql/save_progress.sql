-- Save how far Kafka acknowledged, if the lease is still of this term. Whoever saves has fenced the predecessor, if there was one.
-- $1 shard text, $2 lease_name text, $3 term bigint, $4 topics text[], $5 partition_numbers integer[], $6 epochs bigint[],
-- $7 global_positions bigint[], $8 kafka_offsets bigint[]: the partitions that moved; $9 epoch bigint, $10 global_position bigint,
-- $11 event_id uuid: the checkpoint
-- Returns the term, or no row when another took the lease; nothing is written then. Locks the lease's row, so that a taking waits for the
-- commit or this waits for the taking; relies on leases_pkey, relay_positions_pkey and relay_checkpoints_pkey.
WITH lease AS MATERIALIZED (
    SELECT term
      FROM headwater.leases
     WHERE name = $2
       AND term = $3
       FOR SHARE
), moved_positions AS (
    INSERT INTO headwater.relay_positions AS kept (topic, partition_number, epoch, global_position, kafka_offset)
    SELECT moved.topic,
           moved.partition_number,
           moved.epoch,
           moved.global_position,
           moved.kafka_offset
      FROM lease
     CROSS JOIN unnest($4::text[], $5::integer[], $6::bigint[], $7::bigint[], $8::bigint[])
           AS moved(topic, partition_number, epoch, global_position, kafka_offset)
    ON CONFLICT ON CONSTRAINT relay_positions_pkey DO UPDATE
       SET epoch = excluded.epoch,
           global_position = excluded.global_position,
           kafka_offset = excluded.kafka_offset,
           updated_at = clock_timestamp()
), moved_checkpoint AS (
    INSERT INTO headwater.relay_checkpoints (shard, epoch, global_position, event_id)
    SELECT $1, $9, $10, $11
      FROM lease
    ON CONFLICT ON CONSTRAINT relay_checkpoints_pkey DO UPDATE
       SET epoch = excluded.epoch,
           global_position = excluded.global_position,
           event_id = excluded.event_id,
           predecessor = NULL,
           updated_at = clock_timestamp()
)
SELECT term
  FROM lease
