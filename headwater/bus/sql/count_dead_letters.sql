-- How many dead letters there are that nobody has settled.
-- $1 group_name text or NULL for all. Returns one bigint. Takes no locks; relies on dead_letters_group_name_idx.
SELECT count(*)
  FROM headwater.dead_letters
 WHERE ($1::text IS NULL OR group_name = $1)
   AND settled_at IS NULL
