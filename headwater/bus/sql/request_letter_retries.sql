-- Ask for another try of dead letters that wait or were skipped, and whose event and handler are known.
-- $1 ids bigint[]. Returns dead_letter_id bigint of those that will be tried. Locks them, waiting for a try under way; relies on dead_letters_pkey.
UPDATE headwater.dead_letters
   SET status = 'retrying',
       retry_requested_at = clock_timestamp(),
       settled_at = NULL
 WHERE dead_letter_id = ANY ($1::bigint[])
   AND status IN ('waiting', 'skipped')
   AND num_nulls(handler_name, event_id) = 0
RETURNING dead_letter_id
