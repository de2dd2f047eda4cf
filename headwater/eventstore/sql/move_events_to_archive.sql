-- Move events of closed streams into the archive, the oldest streams first. One statement: every snapshot has each event in one of the two tables.
-- $1 stream_ids bigint[], locked before, $2 limit bigint. Returns one bigint, how many were moved.
-- Locks the rows it moves; relies on events_stream_id_version_key.
WITH chosen AS (
    SELECT global_position
      FROM headwater.events
     WHERE stream_id = ANY ($1)
     ORDER BY stream_id,
              version
     LIMIT $2
),
moved AS (
    DELETE FROM headwater.events
     USING chosen
     WHERE events.global_position = chosen.global_position
    RETURNING events.global_position, events.stream_id, events.version, events.type, events.data, events.metadata, events.event_id, events.recorded_at
),
archived AS (
    INSERT INTO headwater.archived_events (global_position, stream_id, version, type, data, metadata, event_id, recorded_at)
    SELECT global_position,
           stream_id,
           version,
           type,
           data,
           metadata,
           event_id,
           recorded_at
      FROM moved
     ORDER BY global_position
    RETURNING global_position
)
SELECT count(*)
  FROM archived
