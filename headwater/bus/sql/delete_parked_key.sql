-- Set a key free that nothing waits behind any more; parked_messages_key refuses it while something does.
-- $1 parked_key_id bigint. Returns nothing. Locks the row; relies on parked_keys_pkey.
DELETE FROM headwater.parked_keys
 WHERE parked_key_id = $1
