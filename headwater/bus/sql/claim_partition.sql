-- Become the owner of a partition: raises the epoch, so that no earlier owner can commit any more.
-- $1 group_name text, $2 topic text, $3 partition integer
-- Returns the row as claimed. Locks it, waiting for an owner's commit under way; relies on consumer_positions_pkey.
INSERT INTO headwater.consumer_positions AS positions (group_name, topic, partition)
VALUES ($1, $2, $3)
ON CONFLICT ON CONSTRAINT consumer_positions_pkey DO UPDATE
   SET epoch = positions.epoch + 1,
       claimed_at = clock_timestamp()
RETURNING positions.epoch,
          positions.next_offset,
          positions.marks::text AS marks,
          positions.last_offset,
          positions.last_log_id,
          positions.last_position,
          positions.last_event_id
