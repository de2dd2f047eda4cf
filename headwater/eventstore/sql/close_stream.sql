-- Close a stream for good.
-- $1 stream_name text. Returns version bigint, closed_at timestamptz; nothing for a stream without events.
-- Locks the stream's row to the end of the transaction; waits for appends to it that are in flight.
SELECT closed.version,
       closed.closed_at
  FROM headwater.close_stream($1) AS closed
