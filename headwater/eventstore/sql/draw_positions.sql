-- Draw positions for so many events. Only under the append lock, and never by setval (rule 4).
-- $1 count bigint. Returns global_position bigint, growing; others may draw between two of them.
SELECT nextval('headwater.global_position_seq') AS global_position
  FROM generate_series(1, $1::bigint)
