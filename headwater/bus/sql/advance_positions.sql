-- Move positions that are still where, and whose, their owner believes.
-- $1 group_name text; arrays of equal length: $2 topics text[], $3 partitions integer[], $4 epochs bigint[], $5 offsets before bigint[],
-- $6 next_offsets bigint[], $7 marks text[] (JSON), $8 last_offsets bigint[], $9 last_log_ids uuid[], $10 last_positions text[], $11 last_event_ids uuid[]
-- Returns topic text, partition integer of the rows moved; the caller rolls back unless all were. Locks them; relies on consumer_positions_pkey.
UPDATE headwater.consumer_positions AS positions
   SET next_offset = moves.next_offset,
       marks = moves.marks::jsonb,
       last_offset = moves.last_offset,
       last_log_id = moves.last_log_id,
       last_position = moves.last_position,
       last_event_id = moves.last_event_id,
       updated_at = clock_timestamp()
  FROM unnest($2::text[], $3::integer[], $4::bigint[], $5::bigint[], $6::bigint[], $7::text[], $8::bigint[], $9::uuid[], $10::text[], $11::uuid[])
    AS moves(topic, partition, epoch, offset_before, next_offset, marks, last_offset, last_log_id, last_position, last_event_id)
 WHERE positions.group_name = $1
   AND positions.topic = moves.topic
   AND positions.partition = moves.partition
   AND positions.epoch = moves.epoch
   AND positions.next_offset = moves.offset_before
RETURNING positions.topic,
          positions.partition
