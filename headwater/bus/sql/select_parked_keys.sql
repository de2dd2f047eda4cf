-- Parked keys with their first message, for people, oldest first.
-- $1 ids bigint[], $2 group_name text, $3 handler_name text, $4 event_type text of the first message, $5 message_key text: NULL for all;
-- $6 statuses text[], $7 after bigint (exclusive id), $8 limit bigint
-- Returns them with message_count bigint. Takes no locks; relies on parked_keys_pkey, parked_messages_key_idx.
SELECT parked_keys.parked_key_id,
       parked_keys.group_name,
       parked_keys.handler_name,
       parked_keys.topic,
       parked_keys.partition,
       parked_keys.message_key,
       parked_keys.status,
       parked_keys.due_at,
       parked_keys.attempts,
       parked_keys.error_type,
       parked_keys.error_message,
       parked_keys.traceback,
       parked_keys.first_failed_at,
       parked_keys.last_failed_at,
       parked_keys.parked_at,
       parked_keys.request,
       parked_keys.requested_at,
       heads.record_offset,
       heads.event_id,
       heads.event_type,
       heads.version,
       heads.log_id,
       heads.log_position,
       heads.raw::text AS raw,
       (SELECT count(*) FROM headwater.parked_messages AS messages WHERE messages.parked_key_id = parked_keys.parked_key_id) AS message_count
  FROM headwater.parked_keys
 CROSS JOIN LATERAL (
           SELECT *
             FROM headwater.parked_messages AS messages
            WHERE messages.parked_key_id = parked_keys.parked_key_id
            ORDER BY messages.parked_message_id
            LIMIT 1
       ) AS heads
 WHERE ($1::bigint[] IS NULL OR parked_keys.parked_key_id = ANY ($1))
   AND ($2::text IS NULL OR parked_keys.group_name = $2)
   AND ($3::text IS NULL OR parked_keys.handler_name = $3)
   AND ($4::text IS NULL OR heads.event_type = $4)
   AND ($5::text IS NULL OR parked_keys.message_key = $5)
   AND parked_keys.status = ANY ($6::text[])
   AND parked_keys.parked_key_id > $7
 ORDER BY parked_keys.parked_key_id
 LIMIT $8
