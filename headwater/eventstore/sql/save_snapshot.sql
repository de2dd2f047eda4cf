-- Keep a snapshot, unless there is a newer one of the same shape.
-- $1 stream_name text, $2 decider_name text, $3 version bigint, $4 event_id uuid, $5 shape text, $6 state text
-- Locks the row to the end of the transaction; relies on snapshots_pkey.
INSERT INTO headwater.snapshots AS kept (stream_name, decider_name, version, event_id, shape, state)
VALUES ($1, $2, $3, $4, $5, $6)
    ON CONFLICT ON CONSTRAINT snapshots_pkey DO UPDATE
   SET version = excluded.version,
       event_id = excluded.event_id,
       shape = excluded.shape,
       state = excluded.state,
       taken_at = excluded.taken_at
 WHERE kept.version < excluded.version
    OR kept.shape <> excluded.shape
