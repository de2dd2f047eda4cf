-- The topics that were ever relayed to.
-- Returns one text each. Takes no locks.
SELECT topic
  FROM headwater.relay_topics
 ORDER BY topic
