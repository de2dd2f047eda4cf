-- How many events there are of each category and type, most first, and what their data and metadata take as stored.
-- Returns category text, type text, event_count bigint, archived_count bigint, stored_bytes bigint, last_recorded_at timestamptz.
-- Takes no locks; reads the whole log.
SELECT split_part(streams.stream_name, '-', 1) AS category,
       counted.type,
       sum(counted.event_count)::bigint AS event_count,
       coalesce(sum(counted.event_count) FILTER (WHERE counted.is_archived), 0)::bigint AS archived_count,
       sum(counted.stored_bytes)::bigint AS stored_bytes,
       max(counted.last_recorded_at) AS last_recorded_at
  FROM (SELECT stream_id,
               type,
               FALSE AS is_archived,
               count(*) AS event_count,
               sum(pg_column_size(data) + pg_column_size(metadata)) AS stored_bytes,
               max(recorded_at) AS last_recorded_at
          FROM headwater.events
         GROUP BY stream_id,
                  type
         UNION ALL
        SELECT stream_id,
               type,
               TRUE,
               count(*),
               sum(pg_column_size(data) + pg_column_size(metadata)),
               max(recorded_at)
          FROM headwater.archived_events
         GROUP BY stream_id,
                  type) AS counted
  JOIN headwater.streams ON streams.stream_id = counted.stream_id
 GROUP BY split_part(streams.stream_name, '-', 1),
          counted.type
 ORDER BY event_count DESC,
          category,
          counted.type
