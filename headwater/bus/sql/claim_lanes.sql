-- Fence the lanes of a partition: a lane commits only under the epoch of the claim. In a transaction that holds the position's row under that epoch.
-- $1 group_name text, $2 topic text, $3 partition integer, $4 epoch bigint, $5 next_offset bigint;
-- of the handlers that run here, arrays of equal length: $6 handler_names text[], $7 lane_counts integer[]
-- Returns handler_name, lane_count, lane, mark of all lanes, those of handlers or numbers that are no more included, as long as the position has
-- not passed them. Locks the rows, waiting for commits under way; relies on consumer_lanes_pkey.
WITH wanted AS (
    SELECT handler_name,
           lane_count,
           lane
      FROM unnest($6::text[], $7::integer[]) AS handlers(handler_name, lane_count)
     CROSS JOIN LATERAL generate_series(0, lane_count - 1) AS lane
), passed AS (
    DELETE FROM headwater.consumer_lanes AS lanes
     WHERE lanes.group_name = $1
       AND lanes.topic = $2
       AND lanes.partition = $3
       AND lanes.mark < $5
       AND NOT EXISTS (SELECT FROM wanted WHERE (wanted.handler_name, wanted.lane_count) = (lanes.handler_name, lanes.lane_count))
), kept AS (
    UPDATE headwater.consumer_lanes AS lanes
       SET epoch = $4
     WHERE lanes.group_name = $1
       AND lanes.topic = $2
       AND lanes.partition = $3
       AND (
           lanes.mark >= $5
        OR EXISTS (SELECT FROM wanted WHERE (wanted.handler_name, wanted.lane_count) = (lanes.handler_name, lanes.lane_count))
       )
    RETURNING lanes.handler_name,
              lanes.lane_count,
              lanes.lane,
              lanes.mark
), added AS (
    INSERT INTO headwater.consumer_lanes (group_name, topic, partition, handler_name, lane_count, lane, epoch)
    SELECT $1,
           $2,
           $3,
           wanted.handler_name,
           wanted.lane_count,
           wanted.lane,
           $4
      FROM wanted
        ON CONFLICT ON CONSTRAINT consumer_lanes_pkey DO NOTHING
)
SELECT handler_name,
       lane_count,
       lane,
       mark
  FROM kept
