-- Let a group begin behind an event in some partitions.
-- $1 group_name text, $2 topics text[], $3 partitions integer[], $4 next_offsets bigint[], $5 log_id uuid, $6 positions text[] (EPOCH:POSITION),
-- $7 epoch bigint
-- Relies on consumer_positions_pkey.
INSERT INTO headwater.consumer_positions (group_name, topic, partition, epoch, next_offset, marks)
SELECT $1,
       begun.topic,
       begun.partition,
       $7,
       begun.next_offset,
       jsonb_build_object($5::uuid::text, begun.position)
  FROM unnest($2::text[], $3::integer[], $4::bigint[], $6::text[]) AS begun (topic, partition, next_offset, position)
