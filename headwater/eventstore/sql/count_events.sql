-- How many events lie between two positions; stops counting at a limit.
-- $1 after bigint (exclusive), $2 through bigint (inclusive), $3 limit bigint. Returns one bigint. Takes no locks; relies on events_pkey and its like in the archive.
SELECT count(*)
  FROM (SELECT
          FROM headwater.all_events AS events
         WHERE global_position > $1
           AND global_position <= $2
         LIMIT $3) AS counted
