-- Settle dead letters without an effect; they stay listed as skipped.
-- $1 ids bigint[]. Returns dead_letter_id bigint of those settled. Locks them, waiting for a try under way; relies on dead_letters_pkey.
UPDATE headwater.dead_letters
   SET status = 'skipped',
       settled_at = clock_timestamp()
 WHERE dead_letter_id = ANY ($1::bigint[])
   AND status IN ('waiting', 'retrying')
RETURNING dead_letter_id
