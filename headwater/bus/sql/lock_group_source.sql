-- What feeds a group, locked: nobody claims a partition for it until the end of the transaction.
-- $1 group_name text. Returns source text, or nothing. Waits for claims under way; relies on group_sources_pkey.
SELECT source
  FROM headwater.group_sources
 WHERE group_name = $1
   FOR UPDATE
