-- Whether lanes were ever at work in a partition.
-- $1 group_name text, $2 topic text, $3 partition integer. Returns one boolean. Takes no locks; relies on consumer_lanes_pkey.
SELECT EXISTS (
           SELECT
             FROM headwater.consumer_lanes
            WHERE group_name = $1
              AND topic = $2
              AND partition = $3
       )
