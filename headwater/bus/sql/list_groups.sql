-- All groups of handlers, by name: what feeds them, since when, how many partitions they claimed, and how many keys are parked.
-- Takes no locks.
SELECT known.group_name,
       known.source,
       known.since,
       (SELECT count(*) FROM headwater.consumer_positions AS positions WHERE positions.group_name = known.group_name) AS partition_count,
       (SELECT count(*) FROM headwater.parked_keys AS parked WHERE parked.group_name = known.group_name) AS parked_count
  FROM headwater.group_sources AS known
 ORDER BY known.group_name
