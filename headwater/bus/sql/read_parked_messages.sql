-- The first messages of a parked key, in order.
-- $1 parked_key_id bigint, $2 limit bigint
-- Returns parked_message_id, record_offset, raw text (JSON). Takes no locks; relies on parked_messages_key_idx.
SELECT parked_message_id,
       record_offset,
       raw::text AS raw
  FROM headwater.parked_messages
 WHERE parked_key_id = $1
 ORDER BY parked_message_id
 LIMIT $2
