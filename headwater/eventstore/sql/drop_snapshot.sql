-- Delete exactly this snapshot; one that has replaced it stays.
-- $1 stream_name text, $2 decider_name text, $3 version bigint, $4 event_id uuid, $5 shape text
-- Locks the row to the end of the transaction; relies on snapshots_pkey.
DELETE FROM headwater.snapshots
 WHERE stream_name = $1
   AND decider_name = $2
   AND version = $3
   AND event_id = $4
   AND shape = $5
