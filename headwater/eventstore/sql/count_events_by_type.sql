-- How many events there are of each category and type, most first.
-- Returns category text, type text, event_count bigint, last_recorded_at timestamptz. Takes no locks; reads the whole log.
SELECT split_part(streams.stream_name, '-', 1) AS category,
       events.type,
       count(*) AS event_count,
       max(events.recorded_at) AS last_recorded_at
  FROM headwater.events
  JOIN headwater.streams ON streams.stream_id = events.stream_id
 GROUP BY split_part(streams.stream_name, '-', 1),
          events.type
 ORDER BY event_count DESC,
          category,
          events.type
