-- How many dead letters a filter finds.
-- $1 ids bigint[], $2 group_name text, $3 handler_name text, $4 event_type text: NULL for all; $5 statuses text[]
-- Returns one bigint. Takes no locks; reads all letters where no ids are given.
SELECT count(*)
  FROM headwater.dead_letters
 WHERE ($1::bigint[] IS NULL OR dead_letter_id = ANY ($1))
   AND ($2::text IS NULL OR group_name = $2)
   AND ($3::text IS NULL OR handler_name = $3)
   AND ($4::text IS NULL OR event_type = $4)
   AND status = ANY ($5::text[])
