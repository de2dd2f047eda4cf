-- The next events of the log that a selection wants, up to a horizon read before, looking at a bounded number of positions.
-- $1 after bigint (exclusive), $2 horizon bigint (inclusive), $3 positions to look at bigint, $4 categories text[], $5 types text[],
-- $6 stream prefixes text[] (each NULL for all), $7 limit bigint
-- Returns last_scanned bigint and last_scanned_id uuid (the last event looked at, wanted or not), scanned_through bigint (no event up to here was
-- left out, unless there are as many as the limit), and in order the events with their streams' names; one row without an event where none
-- is wanted, and nothing where there is no event at all.
-- Takes no locks; relies on events_pkey and its like in the archive and streams_pkey. LIMIT 1 keeps the planner from reading all streams for a few events.
WITH scan AS MATERIALIZED (
    SELECT last_event.global_position AS last_scanned,
           last_event.event_id AS last_scanned_id,
           bounds.scanned_through
      FROM (SELECT least($2, min(global_position) + $3 - 1) AS scanned_through
              FROM headwater.all_events AS events
             WHERE global_position > $1
               AND global_position <= $2) AS bounds
     CROSS JOIN LATERAL (SELECT global_position,
                                event_id
                           FROM headwater.all_events AS events
                          WHERE global_position > $1
                            AND global_position <= bounds.scanned_through
                          ORDER BY global_position DESC
                          LIMIT 1) AS last_event
)
SELECT scan.last_scanned,
       scan.last_scanned_id,
       scan.scanned_through,
       wanted.global_position,
       wanted.stream_name,
       wanted.version,
       wanted.type,
       wanted.data,
       wanted.metadata,
       wanted.event_id,
       wanted.recorded_at
  FROM scan
  LEFT JOIN LATERAL (SELECT events.global_position,
                            stream.stream_name,
                            events.version,
                            events.type,
                            events.data::text AS data,
                            events.metadata::text AS metadata,
                            events.event_id,
                            events.recorded_at
                       FROM headwater.all_events AS events
                      CROSS JOIN LATERAL (SELECT streams.stream_name
                                            FROM headwater.streams
                                           WHERE streams.stream_id = events.stream_id
                                           LIMIT 1) AS stream
                      WHERE events.global_position > $1
                        AND events.global_position <= scan.last_scanned
                        AND ($4::text[] IS NULL OR split_part(stream.stream_name, '-', 1) = ANY ($4))
                        AND ($5::text[] IS NULL OR events.type = ANY ($5))
                        AND ($6::text[] IS NULL OR stream.stream_name ^@ ANY ($6))
                      ORDER BY events.global_position
                      LIMIT $7) AS wanted ON true
 ORDER BY wanted.global_position
