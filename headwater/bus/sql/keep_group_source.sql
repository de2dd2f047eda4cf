-- Remember what feeds a group, if nothing is known of it yet: what it has handled tells, should a process of an earlier version have worked for it.
-- $1 group_name text, $2 source text (kafka or postgres: of who asks). Waits for another process that does the same; relies on group_sources_pkey
-- and consumer_positions_pkey.
INSERT INTO headwater.group_sources (group_name, source)
SELECT $1,
       coalesce(
           (
               SELECT CASE WHEN starts_with(handled.topic, 'log:') THEN 'postgres' ELSE 'kafka' END
                 FROM headwater.consumer_positions AS handled
                WHERE handled.group_name = $1
                  AND handled.next_offset > 0
                LIMIT 1
           ),
           $2
       )
ON CONFLICT ON CONSTRAINT group_sources_pkey DO NOTHING
