-- The tags of some events.
-- $1 global_positions bigint[]. Returns global_position bigint, tags text[]. Takes no locks.
SELECT event_tags.global_position,
       array_agg(event_tags.tag ORDER BY event_tags.tag) AS tags
  FROM headwater.event_tags
 WHERE event_tags.global_position = ANY ($1)
 GROUP BY event_tags.global_position
