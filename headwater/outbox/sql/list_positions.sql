-- The last acknowledged record of each partition.
-- Returns topic text, partition_number integer, epoch bigint, global_position bigint, kafka_offset bigint.
SELECT topic,
       partition_number,
       epoch,
       global_position,
       kafka_offset
  FROM headwater.relay_positions
