-- The last record of this log that each partition acknowledged, by topic.
-- Returns topic text, partition_number integer, epoch bigint, global_position bigint, kafka_offset bigint, updated_at timestamptz. Takes no locks.
SELECT topic,
       partition_number,
       epoch,
       global_position,
       kafka_offset,
       updated_at
  FROM headwater.relay_positions
 ORDER BY topic,
          partition_number
