-- How the topics were divided before they were given more partitions, the earliest of each first.
-- Returns topic text, partition_count integer, through_epoch bigint, through_position bigint, tails text (JSON). Relies on relay_divisions_pkey.
SELECT topic,
       partition_count,
       through_epoch,
       through_position,
       tails::text AS tails
  FROM headwater.relay_divisions
 ORDER BY topic,
          through_epoch,
          through_position
