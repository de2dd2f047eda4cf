-- Draw positions for so many events. Only under the append lock, and never by setval (rule 4).
-- $1 count bigint. Returns one bigint[], growing; others may draw between two of them.
SELECT ARRAY(SELECT nextval('headwater.global_position_seq')
               FROM generate_series(1, $1::bigint)) AS global_positions
