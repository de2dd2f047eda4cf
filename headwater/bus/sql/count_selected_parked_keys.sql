-- How many parked keys a filter finds.
-- $1 ids bigint[], $2 group_name text, $3 handler_name text, $4 event_type text of the first message, $5 message_key text: NULL for all;
-- $6 statuses text[]
-- Returns one bigint. Takes no locks; relies on parked_messages_key_idx.
SELECT count(*)
  FROM headwater.parked_keys
 WHERE ($1::bigint[] IS NULL OR parked_keys.parked_key_id = ANY ($1))
   AND ($2::text IS NULL OR parked_keys.group_name = $2)
   AND ($3::text IS NULL OR parked_keys.handler_name = $3)
   AND ($4::text IS NULL OR $4 = (
           SELECT messages.event_type
             FROM headwater.parked_messages AS messages
            WHERE messages.parked_key_id = parked_keys.parked_key_id
            ORDER BY messages.parked_message_id
            LIMIT 1
       ))
   AND ($5::text IS NULL OR parked_keys.message_key = $5)
   AND parked_keys.status = ANY ($6::text[])
