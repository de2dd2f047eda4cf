-- The topics that were ever relayed to, with the number of partitions they had then.
-- Returns topic text, partition_count integer.
SELECT topic,
       partition_count
  FROM headwater.relay_topics
