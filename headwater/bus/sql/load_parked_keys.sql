-- The parked keys of one partition, for its owner, who has claimed it.
-- $1 group_name text, $2 topic text, $3 partition integer
-- Returns them with message_count bigint and due_in_seconds double precision. Takes no locks; relies on parked_keys_key_once, parked_messages_key_idx.
SELECT parked_keys.parked_key_id,
       parked_keys.handler_name,
       parked_keys.message_key,
       parked_keys.status,
       extract(epoch FROM parked_keys.due_at - clock_timestamp())::double precision AS due_in_seconds,
       parked_keys.attempts,
       parked_keys.retries,
       parked_keys.error_type,
       parked_keys.error_message,
       parked_keys.traceback,
       parked_keys.first_failed_at,
       parked_keys.last_failed_at,
       (SELECT count(*) FROM headwater.parked_messages AS messages WHERE messages.parked_key_id = parked_keys.parked_key_id) AS message_count
  FROM headwater.parked_keys
 WHERE group_name = $1
   AND topic = $2
   AND partition = $3
 ORDER BY parked_key_id
