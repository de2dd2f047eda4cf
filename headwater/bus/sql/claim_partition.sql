-- Become the owner of a partition: raises the epoch, so that no earlier owner can commit any more.
-- $1 group_name text, $2 topic text, $3 partition integer, $4 source text (of the topic: kafka or postgres)
-- Returns the row as claimed; nothing where another source feeds the group. Shares the group's row in group_sources, which is there, until the end of
-- the transaction. Locks the partition's row, waiting for an owner's commit under way; relies on consumer_positions_pkey.
WITH fed AS (
    SELECT known.source
      FROM headwater.group_sources AS known
     WHERE known.group_name = $1
       FOR SHARE
)
INSERT INTO headwater.consumer_positions AS positions (group_name, topic, partition)
SELECT $1, $2, $3
  FROM fed
 WHERE fed.source = $4
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
