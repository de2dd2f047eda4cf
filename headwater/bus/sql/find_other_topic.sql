-- A topic in which the group has a position, and which the source that feeds it now does not have.
-- $1 group_name text, $2 prefix text (of topics that stand for the log), $3 is_log boolean (the source is the log itself)
-- Returns one text or nothing. Takes no locks; relies on consumer_positions_pkey.
SELECT topic
  FROM headwater.consumer_positions
 WHERE group_name = $1
   AND starts_with(topic, $2) <> $3
   AND next_offset > 0
 ORDER BY topic
 LIMIT 1
