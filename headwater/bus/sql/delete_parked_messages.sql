-- Remove messages that were handled or given up, in the transaction of what became of them.
-- $1 ids bigint[]. Returns nothing. Relies on parked_messages_pkey.
DELETE FROM headwater.parked_messages
 WHERE parked_message_id = ANY ($1::bigint[])
