-- Another source feeds a group from now on.
-- $1 group_name text, $2 source text (kafka or postgres). Relies on group_sources_pkey.
UPDATE headwater.group_sources
   SET source = $2,
       since = clock_timestamp()
 WHERE group_name = $1
