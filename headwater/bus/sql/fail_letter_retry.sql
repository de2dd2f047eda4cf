-- A dead letter failed again: it waits with its new error, unless another worker was faster to say so.
-- $1 dead_letter_id bigint, $2 attempts before integer, $3 error_type text, $4 error_message text, $5 traceback text, $6 failed_at timestamptz
-- Returns dead_letter_id bigint, or nothing where the letter has moved on. Locks the row; relies on dead_letters_pkey.
UPDATE headwater.dead_letters
   SET status = 'waiting',
       attempts = attempts + 1,
       error_type = $3,
       error_message = $4,
       traceback = $5,
       last_failed_at = $6
 WHERE dead_letter_id = $1
   AND status = 'retrying'
   AND attempts = $2
RETURNING dead_letter_id
