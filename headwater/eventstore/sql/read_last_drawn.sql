-- The highest position that a writer has drawn, stored or not; 0 before the first. Run it in a statement of its own, before the one that lists writers.
-- Returns one bigint. Takes no locks.
SELECT last_value - (NOT is_called)::int
  FROM headwater.global_position_seq
