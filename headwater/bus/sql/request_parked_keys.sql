-- Ask the owners of their partitions to do something with the first messages of parked keys; a newer request takes the place of an older one.
-- $1 ids bigint[], $2 request text. Returns parked_key_id bigint of those that are still parked.
-- Locks the rows in order of id, waiting for an owner's commit under way; relies on parked_keys_pkey.
WITH chosen AS (
    SELECT parked_key_id
      FROM headwater.parked_keys
     WHERE parked_key_id = ANY ($1::bigint[])
     ORDER BY parked_key_id
       FOR NO KEY UPDATE
), heads AS (
    SELECT messages.parked_key_id,
           min(messages.parked_message_id) AS parked_message_id
      FROM headwater.parked_messages AS messages
      JOIN chosen USING (parked_key_id)
     GROUP BY messages.parked_key_id
)
UPDATE headwater.parked_keys
   SET request = $2,
       requested_at = clock_timestamp(),
       requested_for = heads.parked_message_id
  FROM heads
 WHERE parked_keys.parked_key_id = heads.parked_key_id
RETURNING parked_keys.parked_key_id
