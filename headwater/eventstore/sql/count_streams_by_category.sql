-- How many streams each category has.
-- Returns category text, stream_count bigint. Takes no locks; reads the table of streams.
SELECT split_part(stream_name, '-', 1) AS category,
       count(*) AS stream_count
  FROM headwater.streams
 GROUP BY split_part(stream_name, '-', 1)
