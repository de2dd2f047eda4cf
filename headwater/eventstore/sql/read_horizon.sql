-- How far the log may be read now. Run it in a statement of its own, before the one that reads.
-- Returns one bigint. Takes no locks; lists those of appends in flight.
SELECT headwater.read_horizon()
