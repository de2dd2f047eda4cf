-- Up to which positions a topic of this log had fewer partitions, the earliest first.
-- $1 topic text. Returns log_id uuid, through_epoch bigint, through_position bigint, tails text (JSON: the last position in each partition then).
-- Takes no locks; relies on relay_divisions_pkey.
SELECT (SELECT log_id FROM headwater.log_epochs ORDER BY epoch DESC LIMIT 1) AS log_id,
       through_epoch,
       through_position,
       tails::text AS tails
  FROM headwater.relay_divisions
 WHERE topic = $1
 ORDER BY through_epoch,
          through_position
