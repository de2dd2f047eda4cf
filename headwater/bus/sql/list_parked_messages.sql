-- What waits with a parked key, in order, without its content.
-- $1 parked_key_id bigint, $2 limit bigint
-- Returns parked_message_id, record_offset, event_id, event_type, version, log_position, parked_at. Takes no locks; relies on parked_messages_key_idx.
SELECT parked_message_id,
       record_offset,
       event_id,
       event_type,
       version,
       log_position,
       parked_at
  FROM headwater.parked_messages
 WHERE parked_key_id = $1
 ORDER BY parked_message_id
 LIMIT $2
