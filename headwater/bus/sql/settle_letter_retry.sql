-- A dead letter was handled after all. In the transaction of what its handler did, under the claim's lock.
-- $1 dead_letter_id bigint. Returns nothing. Relies on dead_letters_pkey.
UPDATE headwater.dead_letters
   SET status = 'handled',
       attempts = attempts + 1,
       settled_at = clock_timestamp()
 WHERE dead_letter_id = $1
