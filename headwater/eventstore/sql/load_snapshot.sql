-- The snapshot that a decider has of a stream.
-- $1 stream_name text, $2 decider_name text. Returns one row or nothing. Takes no locks; relies on snapshots_pkey.
SELECT stream_name,
       decider_name,
       version,
       event_id,
       shape,
       state
  FROM headwater.snapshots
 WHERE stream_name = $1
   AND decider_name = $2
