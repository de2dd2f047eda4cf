-- Move a version's checkpoint to the last event that was read.
-- $1 name text, $2 role text, $3 epoch bigint, $4 global_position bigint, $5 event_id uuid, $6 how many events were read bigint
-- The caller holds the row's lock.
UPDATE headwater.projections
   SET epoch = $3,
       global_position = $4,
       event_id = $5,
       event_count = event_count + $6,
       updated_at = clock_timestamp()
 WHERE name = $1
   AND role = $2
