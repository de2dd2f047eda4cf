-- How many streams each category has, and how many of them are closed and archived.
-- Returns category text, stream_count bigint, closed_count bigint, archived_count bigint. Takes no locks; reads the table of streams.
SELECT split_part(stream_name, '-', 1) AS category,
       count(*) AS stream_count,
       count(closed_at) AS closed_count,
       count(archived_at) AS archived_count
  FROM headwater.streams
 GROUP BY split_part(stream_name, '-', 1)
 ORDER BY category
