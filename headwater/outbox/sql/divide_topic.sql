-- Divide a topic anew: what is up to a position stays among as many partitions as there were, what comes goes among more.
-- $1 lease_names text[], $2 terms bigint[]: of all shards; $3 topic text, $4 was integer, $5 partition_count integer,
-- $6 through_epoch bigint, $7 through_position bigint: the last position in the topic, 0 when it has none; $8 tails text: JSON, the last one in
-- each partition
-- Returns the topic, or no row when a lease is another's by now, or the topic was divided meanwhile; nothing is written then. Locks the leases'
-- rows, in the order of their names, so that a taking waits for the commit; relies on leases_pkey, relay_topics_pkey and relay_divisions_pkey.
WITH held AS MATERIALIZED (
    SELECT lease.name
      FROM unnest($1::text[], $2::bigint[]) AS given(name, term)
      JOIN headwater.leases AS lease
        ON lease.name = given.name
       AND lease.term = given.term
     WHERE lease.holder IS NOT NULL
     ORDER BY lease.name
       FOR SHARE OF lease
), divided_topic AS (
    UPDATE headwater.relay_topics
       SET partition_count = $5::integer
     WHERE topic = $3
       AND partition_count = $4::integer
       AND (SELECT count(*) FROM held) = cardinality($1)
    RETURNING topic
), kept_division AS (
    -- Where nothing came since the division before, that one's number is the right one.
    INSERT INTO headwater.relay_divisions (topic, through_epoch, through_position, partition_count, tails)
    SELECT topic, $6::bigint, $7::bigint, $4::integer, $8::text::jsonb
      FROM divided_topic
     WHERE $7::bigint > 0
    ON CONFLICT ON CONSTRAINT relay_divisions_pkey DO NOTHING
)
SELECT topic
  FROM divided_topic
