-- What feeds a group of handlers, and moving it from one source to the other: docs/decisions/0028-moving-a-group.md.

-- One row for each group, made by its first claim. Whoever claims a partition shares the row until the end of the transaction; whoever moves the group
-- locks it, so that nobody claims a partition of the source of before from then on.
CREATE TABLE headwater.group_sources (
    group_name text        NOT NULL COLLATE "C",
    source     text        NOT NULL COLLATE "C",
    since      timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT group_sources_pkey PRIMARY KEY (group_name),
    CONSTRAINT group_sources_source_known CHECK (source IN ('kafka', 'postgres'))
);

-- Groups of before have handled something of one source only: the other one was refused.
INSERT INTO headwater.group_sources (group_name, source)
SELECT group_name,
       CASE WHEN bool_or(starts_with(topic, 'log:') AND next_offset > 0) THEN 'postgres' ELSE 'kafka' END
  FROM headwater.consumer_positions
 GROUP BY group_name
HAVING bool_or(next_offset > 0);
