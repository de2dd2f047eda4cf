-- What people want done with parked keys of these partitions.
-- $1 group_name text; arrays of equal length: $2 topics text[], $3 partitions integer[]
-- Returns topic, partition, parked_key_id, request, requested_at, requested_for. Takes no locks; relies on parked_keys_key_once.
SELECT parked_keys.topic,
       parked_keys.partition,
       parked_keys.parked_key_id,
       parked_keys.request,
       parked_keys.requested_at,
       parked_keys.requested_for
  FROM headwater.parked_keys
  JOIN unnest($2::text[], $3::integer[]) AS mine(topic, partition)
    ON parked_keys.topic = mine.topic
   AND parked_keys.partition = mine.partition
 WHERE parked_keys.group_name = $1
   AND parked_keys.request IS NOT NULL
 ORDER BY parked_keys.requested_at
