-- Remove dead letters for good.
-- $1 ids bigint[]. Returns dead_letter_id bigint of those removed. Locks them, waiting for a try under way; relies on dead_letters_pkey.
DELETE FROM headwater.dead_letters
 WHERE dead_letter_id = ANY ($1::bigint[])
RETURNING dead_letter_id
