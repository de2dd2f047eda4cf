-- What feeds a group.
-- $1 group_name text. Returns source text; nothing for a group that never claimed a partition. Takes no locks; relies on group_sources_pkey.
SELECT source
  FROM headwater.group_sources
 WHERE group_name = $1
