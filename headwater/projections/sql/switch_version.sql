-- Put the rebuilt version's checkpoint and definition in the live one's place; the schemas are renamed beside it, in the same transaction.
-- $1 name text. The caller holds the locks of both rows.
WITH rebuilt AS (
    DELETE FROM headwater.projections
     WHERE name = $1
       AND role = 'next'
    RETURNING shape, fingerprint, epoch, global_position, event_id, event_count
)
UPDATE headwater.projections AS live
   SET shape = rebuilt.shape,
       fingerprint = rebuilt.fingerprint,
       generation = live.generation + 1,
       epoch = rebuilt.epoch,
       global_position = rebuilt.global_position,
       event_id = rebuilt.event_id,
       event_count = rebuilt.event_count,
       status = 'running',
       error = NULL,
       updated_at = clock_timestamp()
  FROM rebuilt
 WHERE live.name = $1
   AND live.role = 'live'
