-- Remember topics at their first use; those that are known keep what they have.
-- $1 topics text[], $2 partition_counts integer[]
INSERT INTO headwater.relay_topics (topic, partition_count)
SELECT first_used.topic,
       first_used.partition_count
  FROM unnest($1::text[], $2::integer[]) AS first_used(topic, partition_count)
ON CONFLICT ON CONSTRAINT relay_topics_pkey DO NOTHING
